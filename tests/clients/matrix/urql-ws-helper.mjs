import { Client, gql, subscriptionExchange } from '@urql/core';
import { resumeExchange, retryOptions } from 'gqlnotify';
import { createClient } from 'graphql-ws';

const socket = createClient({
  url: `ws://${process.env.SERVER}/graphql`,
  connectionParams: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
  ...retryOptions,
});
const client = new Client({
  url: `http://${process.env.SERVER}/graphql`,
  exchanges: [
    resumeExchange(),
    subscriptionExchange({
      forwardSubscription: (request) => ({
        subscribe: (sink) => ({ unsubscribe: socket.subscribe(request, sink) }),
      }),
    }),
  ],
});

client
  .subscription(gql`subscription { notifications(topic: "news") { payload } }`, {})
  .subscribe(({ data, error, extensions }) => {
    if (error) console.error('refused', error);
    else console.log(JSON.stringify({ data, extensions }));
  });
