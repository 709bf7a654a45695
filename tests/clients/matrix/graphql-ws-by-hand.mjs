import { createClient } from 'graphql-ws';

const client = createClient({
  url: `ws://${process.env.SERVER}/graphql`,
  connectionParams: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
  retryAttempts: Infinity,
  shouldRetry: () => true,
});

const payload = {
  query: 'subscription { notifications(topic: "news") { payload } }',
  extensions: {},
};

client.subscribe(payload, {
  next(result) {
    payload.extensions.after = result.extensions.cursor;
    console.log(JSON.stringify(result));
  },
  error: (error) => console.error('refused', error),
  complete() {},
});
