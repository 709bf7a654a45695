-- What the scripts for positions share. Each of their keys is a hash from holders to
-- `<acknowledged> <sent>`, without the second cursor if it is not known.
--
-- The last key is a marker, except in a cluster, where a script can use only the keys of one slot.
-- With the server's replication id, it tells whether the server still has what was saved: a restart
-- changes the id, and FLUSHALL deletes the marker.

local life, is_marked = ARGV[1], ARGV[2] == '1'
local keys = {}
for at = 1, #KEYS - (is_marked and 1 or 0) do
  keys[at] = KEYS[at]
end

-- Return the server's name, and what identifies its memory. Outside a cluster there is one server,
-- whichever it is at the moment.
local function memory()
  local id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  if not is_marked then
    return { redis.call('CLUSTER', 'MYID'), id }
  end
  local marker, time = KEYS[#KEYS], redis.call('TIME')
  -- A full Redis refuses it.
  redis.pcall('SET', marker, time[1] .. '.' .. time[2], 'NX')
  return { '', id .. ' ' .. (redis.call('GET', marker) or '') }
end
