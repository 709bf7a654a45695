// Follows the task service with several clients that resume, each time at another server. Every other
// client is unchanged: it knows nothing of cursors, and leaves out marked repeats. Prints a
// line for each result, and ends when its stdin ends. A line on stdin is a list of clients whose
// sockets are cut, "restless" (cut one after the other until the next line) or "spread" (every
// client connects to its first server again).
// Options: servers (their addresses, without a scheme), clients, after (a cursor for each stream),
// topic, room (each client is present there), secret.

import { createInterface } from 'node:readline';

import { connect, options, pause, post, print, token } from './client.mjs';

const { servers, clients, after, topic, room, secret } = options;
const bearer = (number) => token(secret, 3600, `client-${number}`);

/** The servers one after the other, starting with one of them. */
function* inTurn(first) {
  for (let turn = first; ; turn += 1) yield servers[turn % servers.length];
}

const streams = {
  tasks: {
    document: 'subscription { taskEvents { task { title } } }',
    number: ({ taskEvents }) => Number(taskEvents.task.title),
    cursor: async () => (await patiently('{ tasks(first: 1) { eventCursor } }')).tasks.eventCursor,
  },
  notices: {
    document: 'subscription ($topic: String!) { notifications(topic: $topic) { payload } }',
    variables: { topic },
    number: ({ notifications }) => notifications.payload,
    // There is no state to refetch: the client continues with the next event.
    cursor: async () => undefined,
  },
};

async function patiently(query) {
  for (const server of inTurn(0)) {
    try {
      return await post(`http://${server}/graphql`, query, {}, bearer(0));
    } catch {
      await pause(50);
    }
  }
}

function follow(client, number, name) {
  const stream = streams[name];
  const say = (line) => print({ client: number, stream: name, ...line });
  const payload = {
    query: stream.document,
    variables: stream.variables,
    extensions: { after: after[name] },
  };
  const subscribe = () =>
    client.subscribe(payload, {
      next({ data, errors, extensions }) {
        if (errors) return say({ broken: errors });
        payload.extensions.after = extensions.cursor;
        say({ number: stream.number(data), cursor: extensions.cursor });
      },
      async error(error) {
        const code = Array.isArray(error) ? error[0].extensions?.code : undefined;
        if (code === 'CURSOR_EXPIRED') {
          payload.extensions.after = await stream.cursor();
          say({ gap: true, cursor: payload.extensions.after });
        } else if (code === 'BROKER_UNAVAILABLE') {
          await pause(50);
        } else {
          return say({ broken: code ?? String(error.code ?? error) });
        }
        subscribe();
      },
      complete: () => say({ broken: 'complete' }),
    });
  subscribe();
}

/** Compares two cursors: numbers start from 1 again after Redis has lost its history, in a new epoch. */
function isBefore(one, other) {
  const [epoch, number] = one.split('-').map(Number);
  const [otherEpoch, otherNumber] = other.split('-').map(Number);
  return epoch === otherEpoch ? number < otherNumber : epoch < otherEpoch;
}

function followUnchanged(client, number, name) {
  const stream = streams[name];
  const say = (line) => print({ client: number, stream: name, ...line });
  const seen = new Set();
  let first;
  const subscribe = () =>
    client.subscribe({ query: stream.document, variables: stream.variables }, {
      next({ data, errors, extensions }) {
        if (errors?.[0].extensions?.code === 'CURSOR_EXPIRED') return say({ gap: true, cursor: extensions.cursor });
        if (errors) return say({ broken: errors });
        const event = stream.number(data);
        if (seen.size === 0) {
          say({ begins: true });
          first = extensions.cursor;
        }
        if (extensions.redelivered && (seen.has(event) || isBefore(extensions.cursor, first))) return;
        seen.add(event);
        say({ number: event, cursor: extensions.cursor });
      },
      error(error) {
        const code = Array.isArray(error) ? error[0].extensions?.code : undefined;
        if (code !== 'CURSOR_EXPIRED') return say({ broken: code ?? String(error.code ?? error) });
        say({ gap: true });
        subscribe();
      },
      complete: () => say({ broken: 'complete' }),
    });
  subscribe();
}

/** Subscribes to the messages of the room, only to be present there. */
function attend(client) {
  client.subscribe({ query: 'subscription ($room: String!) { messages(room: $room) { id } }', variables: { room } }, {
    next() {},
    async error() {
      await pause(50);
      attend(client);
    },
    complete() {},
  });
}

function start(number) {
  const one = { turns: inTurn(number) };
  let server;
  const { client, state } = connect({
    url() {
      server = one.turns.next().value;
      return `ws://${server}/graphql`;
    },
    on: {
      connected: () => print({ client: number, at: server }),
      closed: () => print({ client: number, at: null }),
    },
    connectionParams: () => ({ Authorization: `Bearer ${bearer(number)}` }),
  });
  const followed = number % 2 ? followUnchanged : follow;
  Object.keys(streams).forEach((name) => followed(client, number, name));
  attend(client);
  // In any state: before the handshake or the ack, during a replay or live events.
  one.cut = () => state.socket?.terminate();
  return one;
}

const all = Array.from({ length: clients }, (_, number) => start(number));
let restless = 0;

async function cutAgainAndAgain(mine) {
  while (mine === restless) {
    await pause(Math.random() * 100);
    all[Math.floor(Math.random() * clients)].cut();
  }
}

function spread() {
  all.forEach((one, number) => (one.turns = inTurn(number)));
  all.forEach((one) => one.cut());
}

const orders = createInterface({ input: process.stdin });
orders.on('line', (line) => {
  const order = JSON.parse(line);
  restless += 1;
  if (order === 'spread') spread();
  else if (order === 'restless') cutAgainAndAgain(restless);
  else order.forEach((number) => all[number].cut());
});
orders.on('close', () => process.exit());
