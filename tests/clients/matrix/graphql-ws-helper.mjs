import { createClient } from 'graphql-ws';
import { retryOptions, withResume } from 'gqlnotify';

const client = withResume(
  createClient({
    url: `ws://${process.env.SERVER}/graphql`,
    connectionParams: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
    ...retryOptions,
  }),
);

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
