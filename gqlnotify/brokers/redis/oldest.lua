-- The oldest place to read after. A topic without a history gets an empty one.

local age, lifetime, empty = tonumber(ARGV[1]), ARGV[2], ARGV[3]

local now = here_and_now()
history(now)
drop_older(now.ms - age)
extend_by_content(lifetime, empty)
return inspect()['first-entry'][1]
