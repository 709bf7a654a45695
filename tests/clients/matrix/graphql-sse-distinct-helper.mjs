import { createClient } from 'graphql-sse';
import { withResume } from 'gqlnotify';

const client = withResume(
  createClient({
    url: `http://${process.env.SERVER}/graphql`,
    headers: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
    retryAttempts: Infinity,
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
