-- The cursor of the newest event. A topic without a history gets an empty one.

local age, lifetime, empty = tonumber(ARGV[1]), ARGV[2], ARGV[3]

local now = here_and_now()
local known = history(now)
drop_older(now.ms - age)
extend_by_content(lifetime, empty)
return known['last-entry'][1]
