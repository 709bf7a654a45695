import { createClient } from 'graphql-ws';

const client = createClient({
  url: `ws://${process.env.SERVER}/graphql`,
  connectionParams: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
  retryAttempts: Infinity,
  shouldRetry: () => true,
});

const payload = {
  query: 'subscription { notifications(topic: "news") { payload } }',
};

client.subscribe(payload, {
  next(result) {
    console.log(JSON.stringify(result));
  },
  error: (error) => console.error('refused', error),
  complete() {},
});
