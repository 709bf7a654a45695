-- Remove the connections of a process that is silent, or that leaves. Return whether there are more.

local leaves = ARGV[9] == '1'

-- It may have come back since it was found silent.
if not (leaves or is_silent()) then
  return 0
end
redis.call('HDEL', revisions, process)
local page = redis.call('ZRANGE', own, 0, PAGE - 1, 'WITHSCORES')
for at = 1, #page, 2 do
  set_connections(page[at], 0)
end
local is_last = #page < 2 * PAGE
if is_last then
  redis.call('ZREM', due, 'p' .. process)
end
conclude()
return is_last and 0 or 1
