import { createClient } from 'graphql-sse';

const client = createClient({
  url: `http://${process.env.SERVER}/graphql`,
  headers: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
  retryAttempts: Infinity,
  singleConnection: true,
});

const payload = {
  query: `subscription ($after: String) { notifications(topic: "news", after: $after) { payload } }`,
  variables: {},
};

client.subscribe(payload, {
  next(result) {
    payload.variables.after = result.extensions.cursor;
    console.log(JSON.stringify(result));
  },
  error: (error) => console.error('refused', error),
  complete() {},
});
