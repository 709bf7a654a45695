-- The oldest place that one can read after; a topic without a history gets one. Extends its life.

local age, lifetime = tonumber(ARGV[1]), ARGV[2]

local now = here_and_now()
history(now)
drop_older(now.ms - age)
extend(lifetime)
return inspect()['first-entry'][1]
