// Follows the task service with clients that resume, each time at another server, and counts the
// results. A line on stdin, [tasks, notices], is the position that all clients must reach; then the
// script prints its counts, and ends.
// Options: servers (their addresses, without a scheme), clients, after (a cursor for each stream),
// secret.

import { createInterface } from 'node:readline';

import { connect, options, pause, print, token } from './client.mjs';

const { servers, clients, after, secret } = options;

const streams = {
  tasks: {
    query: 'subscription { taskEvents { task { title } } }',
    number: ({ taskEvents }) => Number(taskEvents.task.title),
  },
  notices: {
    query: 'subscription { notifications(topic: "rolling") { payload } }',
    number: ({ notifications }) => notifications.payload,
  },
};

function follow(client, name) {
  const { query, number } = streams[name];
  const seen = { last: 0, delivered: 0, lost: 0, repeated: 0, broken: [] };
  const payload = { query, extensions: { after: after[name] } };
  client.subscribe(payload, {
    next({ data, errors, extensions }) {
      if (errors) return seen.broken.push(errors);
      payload.extensions.after = extensions.cursor;
      const found = number(data);
      seen.delivered += 1;
      if (found <= seen.last) seen.repeated += 1;
      else seen.lost += found - seen.last - 1;
      seen.last = Math.max(seen.last, found);
    },
    error: (error) => seen.broken.push(error),
    complete: () => seen.broken.push('complete'),
  });
  return seen;
}

function start(number) {
  let turn = number;
  let connected = false;
  // The close codes of connected sockets, and how often no connection was possible.
  const closes = { codes: [], refused: 0 };
  const { client } = connect({
    url: () => `ws://${servers[turn++ % servers.length]}/graphql`,
    connectionParams: () => ({ Authorization: `Bearer ${token(secret, 3600)}` }),
    on: {
      connected: () => (connected = true),
      closed({ code }) {
        if (connected) closes.codes.push(code);
        else closes.refused += 1;
        connected = false;
      },
    },
  });
  const seen = { tasks: follow(client, 'tasks'), notices: follow(client, 'notices') };
  return { seen, closes };
}

const all = Array.from({ length: clients }, (_, number) => start(number));

for await (const line of createInterface({ input: process.stdin })) {
  const [tasks, notices] = JSON.parse(line);
  const there = ({ seen }) => seen.tasks.last >= tasks && seen.notices.last >= notices;
  for (let tries = 0; tries < 1500 && !all.every(there); tries += 1) await pause(20);
  print(all.map(({ seen, closes }) => ({ ...seen, ...closes })));
  process.exit();
}
