"""What the report says beside its figures."""

OPENING = """
# What a delivery costs

One event, {many} subscribers of one document: what does each server pay, and how soon do all of
them have it? One harness and one load client measured all servers, with the same schema, document
and payload. Each cell is the median of {runs} runs, with the least and the greatest in brackets.
Less is better but for deliveries per second and "cheaper than".
"""

MEASURED = """
## How it was measured

- **Cores.** The server is pinned to one core, the load client (and Redis) to another. Only the
  server's CPU is counted; Redis's is not.
- **CPU** is the process's own clock, as `clock_getcpuclockid(3)` gives it: nanoseconds of all its
  threads and children, in the server and in the kernel on its behalf. On loopback the kernel's
  part holds the way of a packet up to the receiver's socket.
- **The load client** is `load.c`: one thread, epoll, no library. While something is going on it
  looks for news without sleeping, because waking a process of the same machine is work that would
  be counted as the server's. It checks that each subscriber gets each event once and in order,
  that the first is the message that all servers send (but for spaces and extensions), and that all
  publications succeed; if not, that server's scenario counts as failed, and its figures are not in
  the tables.
- **Payload.** An event is a number, a time, a kind and a text: about 230 bytes of JSON. Each
  subscription has an id of its own, in the form of a UUID. gqlnotify adds a cursor of about 50
  bytes, and so does the limit; what is on the wire is in the column "bytes per delivery".
- **Publishing** is a mutation over HTTP. Its CPU is part of the figures: it is divided among all
  deliveries, and all that there is to see with one subscriber. By itself it is the column "CPU of
  one `publish`".
- **One event at a time**: the next is published when all subscribers have the last. **Bursts**:
  one mutation publishes {burst} events, and the next when all have all of them. Each figure is
  that of {seconds} seconds, or of one round where a round takes longer, after a warm-up.
- **Different variables**: each of {many} subscribers has the same document with a variable of its
  own. The event is the same, but a server can't know.
- **Deliveries per second**: mutations of {half} events, with two of them on the way at any time.
- **Delay**: {rated} events, {per_second} a second whatever the server does, to {many} subscribers;
  from `sentAt`, the server's monotonic clock when it published, to the client's when it has read
  the message. The rate is one that all can hold; most of the delay is the way through {many}
  subscribers, one after the other.
- **Memory** is the growth of the proportional set size from before {many} connections to after,
  in a server that has seen 10 others come and go. What the kernel holds for a socket is not in
  it. The limit's is a buffer of fixed size.
- **CPU to connect and subscribe**: {many} connections, 32 at a time, from TCP to the `pong` that
  answers a `ping` behind `subscribe`, and until the server is at rest. **With a token**: an HS256
  token in the payload of `connection_init`, checked by gqlnotify itself, by python-jose in
  Strawberry's and Ariadne's hook, and by jsonwebtoken in those of Node; that a wrong one is
  refused is checked as well.
- **Coming back**: {many} clients lose their connections, {missed} events are published, all
  connect, and then all subscribe at once with their cursors. The CPU is that from the first
  `subscribe` to the last event; what the same costs with nothing missed is taken off, and left
  in under "with `subscribe`". A run does both three times, in turn, and takes the mean: it is a
  small difference of large figures. The peers have no such thing.
- **Ratios** are made within a run, of servers that had their turn in the same few minutes, and
  the median is that of the ratios.
- All servers are one process. Python's run on uvicorn with uvloop and httptools, without an access
  log; Node's with `NODE_ENV=production`. Per-message deflate is as each has it by default; the
  client does not offer it. In Strawberry and Ariadne a subscriber is an `asyncio.Queue`, in Node
  the library's own publish and subscribe, as their documentation shows.
- **The limit** is `limit.c`. It knows its client's messages by heart and makes one `send()` for
  each delivery, of the bytes that gqlnotify would send. Whoever writes once per event can't be
  cheaper; whoever puts several events into one write can.
"""

REPEAT = """
## How to repeat it

```sh
make bench                                              # everything; it takes half an hour and more
.venv/bin/python -m benchmarks --quick --runs 1         # does everything work here? two minutes
.venv/bin/python -m benchmarks --only gqlnotify,strawberry,limit --out /tmp/some.md
```

It needs Linux, two cores that have nothing else to do, a C compiler, and for the peers Node with
npm and a way to the package indexes. The raw figures are in `RESULTS.json`.
"""
