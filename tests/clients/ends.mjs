// How subscriptions of `withResume` end, and what else passes through it. Prints one line.
// Options: ws, after (a cursor with at least one event after it).

import { retryOptions, withResume } from 'gqlnotify';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

import { options as given, print } from './client.mjs';
import { Position } from './node_modules/gqlnotify/dist/position.js';

const { ws, after } = given;
const query = 'subscription { numbers { value } }';
const stale = { query, extensions: { after: '1-1' } };
const fresh = { query, extensions: { after } };

const client = (onExpired) =>
  withResume(createClient({ url: ws, webSocketImpl: WebSocket, ...retryOptions }), { onExpired });

/** What the sink is told, until it is told an end. `subscribed` gets the function that ends it. */
const told = (client, payload, subscribed = () => {}) =>
  new Promise((done) => {
    const calls = [];
    const note = (call) => (value) => calls.push([call, value]);
    const end = (call) => (value) => done([...calls, [call, value]]);
    const next = (result) => {
      note('next')(result.data);
      subscribed(stop);
    };
    const stop = client.subscribe(payload, { next, error: end('error'), complete: end('complete') });
  });

async function stopWhileWaiting() {
  let stop;
  const waiting = client(() => {
    stop();
    return new Promise(() => {});
  });
  const completed = new Promise((complete) => {
    stop = waiting.subscribe(stale, { next() {}, error() {}, complete });
  });
  await completed;
  return true;
}

async function firstOf(iterator) {
  for await (const { data } of iterator) return data;
}

function positions(...cursors) {
  const position = new Position({ extensions: { after: '5-7' } });
  return cursors.map((cursor) => position.take({ extensions: { cursor } }));
}

print({
  query: await told(client(), { query: '{ __typename }' }),
  stopped: await told(client(), fresh, (stop) => stop()),
  stoppedWhileWaiting: await stopWhileWaiting(),
  expired: (await told(client(), stale))[0][1][0].extensions.code,
  failedToFetch: String((await told(client(() => Promise.reject(Error('offline'))), stale))[0][1]),
  iterated: await firstOf(client().iterate(fresh)),
  refused: await firstOf(client().iterate(stale)).catch(([{ extensions }]) => extensions.code),
  taken: positions('5-6', '5-7', '5-8', '5-8', '6-1', '6-2'),
});
