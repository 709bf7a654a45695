"""Deterministic simulation: years of several processes, Redis and clients, from one seed.

The real code runs, from uvicorn's protocol class to the Lua scripts. Only the clocks, randomness,
TCP and the data of Redis are models. A seed decides all of it, so a failure can be run again.

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
- `faults.py`: the plan of what goes wrong
- `history.py`: what was published, what arrived, and whether that keeps the promises; pure
- `run.py`: one simulation, from its seed to its violations
- `pool.py`: many seeds, each in a fork; fewer faults for one that fails
- `__main__.py`: `python -m tests.simulation`
- `safeguards.py`: takes parts of the code out that protect a promise, to see whether seeds notice
"""
