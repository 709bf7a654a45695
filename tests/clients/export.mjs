// Runs a mutation with a large result several times at once, and prints the results.
// A slow client stops reading for `pause` milliseconds after each chunk.

import { connect, options, pause, print } from './client.mjs';

const { url, name, size, times } = options;
const query = 'mutation ($name: String!, $size: Int!) { export(name: $name, size: $size) }';

const { client, state } = connect({
  url,
  on: {
    opened: ({ _socket }) => {
      if (!options.pause) return;
      _socket.on('data', async () => {
        _socket.pause();
        await pause(options.pause);
        _socket.resume();
      });
    },
  },
});

const run = () =>
  new Promise((done, failed) => {
    let length = 0;
    client.subscribe(
      { query, variables: { name, size } },
      {
        next: ({ data }) => (length += data.export.length),
        error: failed,
        complete: () => done(length),
      },
    );
  });

const lengths = await Promise.all(Array.from({ length: times }, run));
print({ lengths, closes: state.closes, connections: state.connections });
process.exit(0);
