-- Save the positions of holders. Return the server and its memory, and the holders that were not saved
-- because another holder has claimed their position.

local reply = { memory() }
for at, key in ipairs(keys) do
  local holder, position, proves_life = ARGV[at * 3], ARGV[at * 3 + 1], ARGV[at * 3 + 2]
  if position == '' then
    redis.call('HDEL', key, holder)
  elseif proves_life == '1' or redis.call('HEXISTS', key, holder) == 1 then
    local says_sent = string.find(position, ' ', 1, true)
    redis.call('HSET', key, holder, says_sent and position .. ' ' .. server or position)
    redis.call('PEXPIRE', key, life)
  else
    reply[#reply + 1] = holder
  end
end
return reply
