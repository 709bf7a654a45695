-- Save how many connections subjects have at a process, and their states. Return whether that was
-- possible: not if the server has lost earlier changes of the process.

local confirmed, revision = tonumber(ARGV[9]), ARGV[10]

if not has_saved(confirmed) then
  return 0
end
redis.call('HSET', revisions, process, revision)
renew()
for at = 11, #ARGV, 3 do
  local subject, connections, state = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if connections ~= '' then
    set_connections(subject, tonumber(connections))
  end
  if state ~= '' then
    set_state(subject, state)
  end
end
conclude()
return 1
