-- Give the topic a history, if it has none, and extend it.

history(here_and_now())
extend(ARGV[1])
