-- Save the positions of holders. Each key is a hash from holders to `<acknowledged> <sent>`, without
-- the second cursor if it is not known. Return the server, and the holders that were not saved
-- because another holder has claimed their position.

local life = ARGV[1]
local reply = { string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') }

for at, key in ipairs(KEYS) do
  local holder, position, proves_life = ARGV[at * 3 - 1], ARGV[at * 3], ARGV[at * 3 + 1]
  if position == '' then
    redis.call('HDEL', key, holder)
  elseif proves_life == '1' or redis.call('HEXISTS', key, holder) == 1 then
    redis.call('HSET', key, holder, position)
    redis.call('PEXPIRE', key, life)
  else
    reply[#reply + 1] = holder
  end
end
return reply
