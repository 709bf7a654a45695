-- What the scripts for positions share. Each of their keys is a hash from holders to
-- `<acknowledged> <sent> <server>`, or only the first if it is not known what was sent. A server that
-- was restarted or promoted may have an older value than the last one, after which more was sent. So
-- the second cursor counts only for the server, by its replication id, that stored it.
--
-- The last key is a marker, except in a cluster, where a script can use only the keys of one slot.
-- With the server's replication id, it tells whether the server still has what was saved: a restart
-- changes the id, and FLUSHALL deletes the marker.

local WEEK = 7 * 24 * 3600 * 1000

local life, is_marked = ARGV[1], ARGV[2] == '1'
local keys = {}
for at = 1, #KEYS - (is_marked and 1 or 0) do
  keys[at] = KEYS[at]
end

local server = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')

-- Return the server's name, and what identifies its memory. Outside a cluster there is one server,
-- whichever it is at the moment.
local function memory()
  if not is_marked then
    return { redis.call('CLUSTER', 'MYID'), server }
  end
  local marker, time = KEYS[#KEYS], redis.call('TIME')
  -- A full Redis refuses it.
  redis.pcall('SET', marker, time[1] .. '.' .. time[2], 'NX')
  if redis.call('PTTL', marker) < WEEK / 2 then
    redis.pcall('PEXPIRE', marker, WEEK)
  end
  return { '', server .. ' ' .. (redis.call('GET', marker) or '') }
end
