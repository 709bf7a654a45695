// Subscribes with graphql-sse as often as asked, and prints each result. Unless it is unchanged, it
// resumes after its last cursor.

import { createClient } from 'graphql-sse';
import { options, pause, print } from './client.mjs';

const { url, token, query, subscriptions, singleConnection, unchanged } = options;

const client = createClient({
  url,
  singleConnection,
  headers: () => ({ authorization: `Bearer ${token}` }),
  retryAttempts: Infinity,
  retry: () => pause(50),
});

for (let number = 0; number < subscriptions; number++) {
  let last;
  // Encoded at each retry: in the single connection mode the client copies the extensions before.
  const extensions = unchanged ? undefined : { after: { toJSON: () => last } };
  client.subscribe({ query, extensions }, {
    next(result) {
      last = result.extensions.cursor;
      print({ number, data: result.data, redelivered: result.extensions.redelivered ?? false });
    },
    error: (error) => print({ number, error: String(error) }),
    complete: () => print({ number, complete: true }),
  });
}
