import { createClient } from 'graphql-sse';

const client = createClient({
  url: `http://${process.env.SERVER}/graphql`,
  headers: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
  retryAttempts: Infinity,
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
