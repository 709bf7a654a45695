-- Return the cursor of the newest event, or a cursor for a topic that does not exist.

local age, lifetime, empty = tonumber(ARGV[1]), ARGV[2], ARGV[3]

local now = here_and_now()
if begun and not inspect() then
  return place(now)
end
local known = history(now)
drop_older(now.ms - age)
extend_by_content(lifetime, empty)
return known['last-entry'][1]
