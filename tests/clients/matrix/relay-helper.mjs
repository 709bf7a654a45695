import { createClient } from 'graphql-ws';
import { retryOptions, withResume } from 'gqlnotify';
import {
  Environment,
  Network,
  Observable,
  RecordSource,
  requestSubscription,
  Store,
} from 'relay-runtime';

import { news } from './relay-news.mjs'; // in an application: graphql`subscription news { ... }`

const socket = withResume(
  createClient({
    url: `ws://${process.env.SERVER}/graphql`,
    connectionParams: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
    ...retryOptions,
  }),
);

const subscribe = ({ text: query }, variables) =>
  Observable.create((sink) => socket.subscribe({ query, variables }, sink));
const query = () => Promise.reject(new Error('This example only subscribes'));

const environment = new Environment({
  network: Network.create(query, subscribe),
  store: new Store(new RecordSource()),
});

requestSubscription(environment, {
  subscription: news,
  variables: {},
  onNext: (data) => console.log(JSON.stringify({ data })),
  onError: (error) => console.error('refused', error),
});
