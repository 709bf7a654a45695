// Follows topics while events are published and the socket is cut repeatedly; counts the results.
// Options: ws, http, topics, followers (of each topic), events (of each topic), cuts, pace (the longest
// pause between two events, ms), and with tokens: secret, lifetime (s).

import { connect, options, pause, post, print, token } from './client.mjs';

const { ws, http, topics, followers = 1, events, cuts = 0, pace = 0, secret, lifetime } = options;
const fresh = () => secret && token(secret, lifetime);
const { client, state } = connect({
  url: ws,
  connectionParams: () => secret && { Authorization: `Bearer ${fresh()}` },
});

async function position(name) {
  const document = 'query ($name: String!) { cursor(name: $name) }';
  const { cursor } = await post(http, document, { name }, fresh());
  return { name, cursor };
}

function follow({ name, cursor }) {
  const payload = {
    query: 'subscription ($name: String!) { numbers(name: $name) { value } }',
    variables: { name },
    extensions: { after: cursor },
  };
  const seen = [];
  return new Promise((resolve, reject) => {
    const stop = client.subscribe(payload, {
      next({ data, errors, extensions }) {
        if (errors) return reject(new Error(JSON.stringify(errors)));
        // The client writes the payload again whenever it reconnects.
        payload.extensions.after = extensions.cursor;
        seen.push(data.numbers.value);
        if (data.numbers.value === events) stop();
      },
      error: reject,
      complete: () => resolve(seen),
    });
  });
}

async function publish(name) {
  const document = 'mutation ($name: String!, $value: Int!) { publish(name: $name, value: $value) }';
  for (let value = 1; value <= events; value += 1) {
    // The last event follows the last cut, so that every cut interrupts a stream.
    if (value === events) await cutting;
    await post(http, document, { name, value }, fresh());
    await pause(Math.random() * pace);
  }
}

let cut = 0;

async function cutAgainAndAgain() {
  while (cut < cuts) {
    await pause(Math.random() * 60);
    // In any state: before the handshake or the ack, during a replay or live events.
    if (state.socket && state.socket.readyState <= 1) {
      state.socket.terminate();
      cut += 1;
    }
  }
}

function count(seen) {
  const distinct = new Set(seen);
  let reordered = 0;
  seen.forEach((value, index) => (reordered += index > 0 && value < seen[index - 1] ? 1 : 0));
  return {
    received: seen.length,
    lost: events - distinct.size,
    repeated: seen.length - distinct.size,
    reordered,
  };
}

const positions = await Promise.all(topics.map(position));
const followed = positions.flatMap((at) => Array.from({ length: followers }, () => follow(at)));
const cutting = cutAgainAndAgain();
await Promise.all(topics.map(publish));
const seen = await Promise.all(followed);
await client.dispose();
print({ counts: seen.map(count), cut, connections: state.connections, closes: state.closes });
