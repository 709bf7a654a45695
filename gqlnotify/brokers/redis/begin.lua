-- Begin a history if the topic has none, and extend its lifetime.

history(here_and_now())
extend(ARGV[1])
