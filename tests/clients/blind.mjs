// Cuts each subscription between the first ping and the first event: as soon as the ping came, an event
// is published, and the socket is cut before it can arrive. Prints how many of these events were lost.
// Every second time the cut is so early that the pong is not sent either.
// Options: servers (their addresses, without a scheme), times, at_once, patience (s), secret.

import { connect, options, pause, post, print, token } from './client.mjs';

const { servers, times, at_once, patience, secret } = options;
const bearer = token(secret, 3600);
const query = 'subscription ($topic: String!) { notifications(topic: $topic) { payload } }';
const publishing =
  'mutation ($topic: String!, $payload: JSON!) { publish(topic: $topic, payload: $payload) { topic } }';

const publish = (topic, payload) =>
  post(`http://${servers[0]}/graphql`, publishing, { topic, payload }, bearer);

/** Whether the event that is published in the blind moment arrives. */
async function round(number, topic) {
  let turn = number;
  let blind = false;
  const { client, state } = connect({
    url: () => `ws://${servers[turn++ % servers.length]}/graphql`,
    connectionParams: { Authorization: `Bearer ${bearer}` },
    retryWait: undefined, // the client's own
    on: {
      async ping(received, payload) {
        if (blind || !received || !payload?.gqlnotify) return;
        blind = true;
        const { socket } = state;
        if (number % 2) socket.terminate();
        else socket.pause();
        await publish(topic, number);
        socket.terminate();
      },
    },
  });
  const arrival = new Promise((resolve) => {
    const next = ({ data }) => data?.notifications.payload === number && resolve(true);
    client.subscribe(
      { query, variables: { topic } },
      { next, error: () => resolve(false), complete() {} },
    );
  });
  const arrived = await Promise.race([arrival, pause(patience * 1000).then(() => false)]);
  await client.dispose();
  return { arrived, blind };
}

let begun = 0;
const counts = { times, lost: 0, unarmed: 0 };

async function work(_, worker) {
  while (begun < times) {
    const { arrived, blind } = await round(begun++, `blind-${worker}`);
    counts.lost += !arrived;
    counts.unarmed += !blind;
  }
}

await Promise.all(Array.from({ length: at_once }, work));
print(counts);
process.exit();
