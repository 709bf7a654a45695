"""What the report says beside its figures."""

OPENING = """
# What a delivery costs

One event, {many} subscribers of one document: what does each server pay, and how late do they get
it? One harness and one load client measured all subjects, with the same event. Each cell is the
median of up to {runs} runs, with the least and the greatest in brackets. A cell without brackets
was measured once. Below each table are the ratios to stock Strawberry, to graphql-ws and to the
limit, as medians of the ratios within a run. Less is better, except for deliveries per second.
"""

MEASURED = """
## How it was measured

- **The task service** is `schema/` as it ships, under `gqlnotify serve`: with its extension, its
  database and outbox, and all its limits at their defaults. Its log is at level `warning`, because
  the other servers log nothing. One route is added, which tells the longest stretch of the event
  loop. Every connection shows a token of its own subject, so no limit had to be raised. An event is
  a notification of a topic; a subscription selects its payload.
- **The bare schema** is a Strawberry schema without extensions and without tokens, in
  `apps/gqlnotify_app.py`. Strawberry, Ariadne and the servers of Node have the same one.
- **The data loader**: the task service with a field more, which awaits 1 ms in a data loader.
- **Cores.** The server is pinned to one core, the load client (and Redis) to another. A second
  process of a server has a third core if there is one; otherwise it shares the server's.
- **CPU** is the process's own clock, as `clock_getcpuclockid(3)` gives it: nanoseconds of all its
  threads and children, in the server and in the kernel on its behalf. On loopback this includes
  the way of a packet to the receiver's socket. The CPU of Redis is not counted.
- **The load client** is `load.c`: one thread, epoll, no library. During a measurement it polls
  without sleeping, because waking a process of the same machine is work that would be counted as
  the server's. It checks that each subscriber gets each event once and in order, that the first
  message is the one that all servers send (except for spaces and extensions), and that all
  publications succeed. Otherwise the load counts as failed for this subject, and its figures are
  not in the tables.
- **An event** is a number, a time, a kind and a text: about 230 bytes of JSON. Each subscription
  has an id of its own, in the form of a UUID. gqlnotify adds a cursor of about 50 bytes, and so
  does the limit.
- **Publishing** is a mutation over HTTP, or over WebSockets where several are in flight or events
  are published at a high rate. Its CPU is part of the figures: it is divided among all
  deliveries.
- **One event at a time**: the next is published when all subscribers have the last. **Bursts**:
  one mutation publishes {burst} events (in the task service it has {burst} fields), and the next
  is sent when all subscribers have all of them. **In flight**: {in_flight} mutations, of one
  event each, at any time. Each figure is that of {seconds} seconds, or of one round where a round
  takes longer, after a warm-up.
- **Different variables**: each of {many} subscribers has the same document with variables of its
  own. The event is the same, but a server can't know. The task service has no such variable.
  There the `extensions` of the operations differ, which gqlnotify treats in the same way.
- **Publishers at another process**: two processes with one Redis. The CPU per delivery is that of
  the process with the subscribers.
- **At a rate**: events are published for {open_seconds} seconds over 32 WebSockets, whatever the
  server does. A delay is the time from when the event was due to when the client has read it. A
  server has kept up if all events had come half a second after the last was due. The client waits
  {patience} seconds at most, and what has not come by then counts as received then. Rates above
  one that was too high are not measured, and neither is Mercurius, which runs no mutations over
  WebSockets. Of {per_second} events a second, {rated} are published over HTTP, and the delay is
  the time since `sentAt`.
- **The longest stretch**: {stretches} events to {members} subscribers, one at a time. A timer in
  the server fires every millisecond, and the stretch is the longest time by which it was late, or
  the longest processor time between two of its calls. In the limit it is the longest turn of the
  loop.
- **Memory** is the growth of the proportional set size from before {many} connections to after,
  in a server that has seen 10 others come and go. It does not include what the kernel holds for a
  socket. The limit's is a buffer of fixed size.
- **Connecting**: {many} connections, 32 at a time, from TCP to the `pong` that answers a `ping`
  after `subscribe`, and until the server is at rest. **With a token**: an HS256 token in the
  payload of `connection_init`, another one for each connection, checked by gqlnotify itself, by
  python-jose in Strawberry's and Ariadne's hook, and by jsonwebtoken in those of Node. The load
  also checks that a wrong token is refused. The ratios of these figures are to those without a
  token.
- **Coming back**: {many} clients lose their connections, {missed} events are published, all
  connect, and then all subscribe at once with their cursors. The CPU is that from the first
  `subscribe` to the last event; what the same costs with nothing missed is subtracted, except in
  "with `subscribe`". A run does both three times, in turn. The other servers can't resume.
- **The storm**: two processes with one Redis. {storm} clients are at the first one, which is
  killed and started again. {missed} events are published, and all {storm} come back at the same
  moment, to both processes in turn. {stay} others have been at the second one all along, and 20
  events a second are published there. A client is live when it has the events that it missed. The
  delays are those of the {stay} until then. A second storm has clients that send no cursor, so the
  server has to know where they have got to.
- All servers are one process. Those in Python run on uvicorn with uvloop and httptools; the bare
  ones and the others without an access log. Those in Node run with `NODE_ENV=production`.
  Per-message deflate is as each has it by default; the client does not offer it. In Strawberry
  and Ariadne a subscriber is an `asyncio.Queue`, in Node the library's own publish and subscribe,
  as their documentation shows.
- **The limit** is `limit.c`. It knows its client's messages by heart and makes one `send()` for
  each delivery, of the bytes that gqlnotify would send. A server that writes once per event can't
  be cheaper. One that puts several events into one write can.
"""

REPEAT = """
## How to repeat it

```sh
make bench                                              # everything; it takes hours
.venv/bin/python -m benchmarks --quick                  # one run, a few seconds for each cell
.venv/bin/python -m benchmarks --quick --subjects limit,tasks --loads open_loop --rates 200
```

It needs Linux, two cores that have nothing else to do, a C compiler, a Redis, and for the other
servers Node with npm and access to the package indexes. The raw figures are in `RESULTS.json`.
"""
