// Follows a topic and resumes until the server refuses that; prints each result as a line.
// Options: ws, topic, after.

import { connect, options, print } from './client.mjs';

const { ws, topic, after } = options;
const { client } = connect({ url: ws });
const payload = {
  query: 'subscription ($name: String!) { numbers(name: $name) { value } }',
  variables: { name: topic },
  extensions: { after },
};

client.subscribe(payload, {
  next({ data, extensions }) {
    payload.extensions.after = extensions.cursor;
    print({ value: data.numbers.value });
  },
  error(error) {
    print({ error });
    client.dispose();
  },
  complete() {},
});
