// Runs one operation, and prints each call of its sink as a line.
// Options: ws, query, variables, extensions, connectionParams, retries.

import { connect, options, print } from './client.mjs';

const { ws, query, variables, extensions, connectionParams, retries = 0 } = options;
const { client, state } = connect({
  url: ws,
  connectionParams,
  retryAttempts: retries,
});

client.subscribe(
  { query, variables, extensions },
  {
    next: (result) => print({ next: result }),
    error: (error) => {
      print(Array.isArray(error) ? { error } : { closed: error.code, connections: state.connections });
      client.dispose();
    },
    complete: () => {
      print({ complete: true });
      client.dispose();
    },
  },
);
