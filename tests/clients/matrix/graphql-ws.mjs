import { createClient } from 'graphql-ws';

const client = createClient({
  url: `ws://${process.env.SERVER}/graphql`,
  connectionParams: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
  retryAttempts: Infinity,
  shouldRetry: () => true,
});

client.subscribe(
  { query: 'subscription { notifications(topic: "news") { payload } }' },
  {
    next: (result) => console.log(JSON.stringify(result)),
    error: (error) => console.error('refused', error),
    complete() {},
  },
);
