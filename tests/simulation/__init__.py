"""Deterministic simulation: years of several processes, Redis and clients, from one seed.

The real code runs, from uvicorn's protocol classes to the Lua scripts, and the outbox on a real
SQLite. Only the clocks, threads, randomness, TCP and the data of Redis are models. A seed decides
all of it, so a failure can be run again. `README.md` has what it has found, and how fast it is.

- `determinism.py`: replaces clocks and randomness, before anything else is imported
- `world.py`: event loops in virtual time, one for each process, and the trace
- `network.py`: TCP connections between them
- `redis_memory.py`: the data of Redis and the commands of our scripts, which run in a real Lua
- `redis_server.py`: a server that restarts, fails over and forgets
- `redis_link.py`: the connections of a process to it, in place of redis-py's
- `application.py`: the application that every process serves
- `process.py`: one server process, which can be killed between any two turns of its loop
- `clients.py`: stock clients, and clients that send cursors
- `lists.py`: clients of live lists, and whether their lists equal the database
- `database.py`: what the processes write through an outbox, and whether that is what was published
- `conditions.py`: what a seed is like: the speed of its networks, its limits and its faults
- `faults.py`: the plan of what goes wrong
- `ambush.py`: what happens right after a certain command of Redis
- `quiet.py`: rounds in which the last event is the one that is missed
- `history.py`: what was published, what arrived, and whether that keeps the promises; pure
- `bounds.py`: how much a process may hold at any time
- `verdict.py`: all promises that a simulation has broken
- `sometimes.py`: the rare states that some seeds must reach
- `run.py`: one simulation, from its seed to its violations
- `pool.py`: many seeds, each in a fork; fewer faults for one that fails
- `__main__.py`: `python -m tests.simulation`
- `safeguards.py`: takes parts of the code out that protect a promise, to see whether seeds notice
"""
