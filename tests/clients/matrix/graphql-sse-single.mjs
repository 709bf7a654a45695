import { createClient } from 'graphql-sse';

const client = createClient({
  url: `http://${process.env.SERVER}/graphql`,
  headers: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
  retryAttempts: Infinity,
  singleConnection: true,
});

client.subscribe(
  { query: 'subscription { notifications(topic: "news") { payload } }' },
  {
    next: (result) => console.log(JSON.stringify(result)),
    error: (error) => console.error('refused', error),
    complete() {},
  },
);
