-- Return the cursor of the newest event, or a cursor for a topic that does not exist.

return newest(here_and_now(), tonumber(ARGV[1]), ARGV[2], ARGV[3])
