// Follows a topic with stock clients and the package gqlnotify, and prints each result as a line.
// Options: clients (keys of `follow`), http, ws, after (a cursor), and with tokens: secret, lifetime (s).

import { ApolloClient, ApolloLink, gql, HttpLink, InMemoryCache, Observable } from '@apollo/client';
import { SetContextLink } from '@apollo/client/link/context';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { Client, createRequest, fetchExchange, subscriptionExchange } from '@urql/core';
import { resumeExchange, resumeLink, retryOptions, withResume } from 'gqlnotify';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

import { options as given, print, token } from './client.mjs';

// Apollo looks for it when a subscription fails, and Node 20 has none.
globalThis.WebSocket ??= WebSocket;

const { clients, http, ws, after, secret, lifetime } = given;
const retryWait = () => new Promise((done) => setTimeout(done, Math.random() * 100));
const payload = { query: 'subscription { numbers { value } }', extensions: { after } };

const headers = () => (secret ? { authorization: `Bearer ${token(secret, lifetime)}` } : {});

async function cursor() {
  const body = JSON.stringify({ query: '{ cursor }' });
  const type = { 'content-type': 'application/json' };
  const answer = await fetch(http, { method: 'POST', headers: { ...type, ...headers() }, body });
  return (await answer.json()).data.cursor;
}

const options = (client) => ({
  retryWait,
  async onExpired() {
    const fresh = await cursor();
    print({ client, refetched: true });
    return fresh;
  },
});

const connect = () =>
  createClient({
    url: ws,
    webSocketImpl: WebSocket,
    connectionParams: headers,
    ...retryOptions,
    retryWait,
  });

const sink = (client) => ({
  next: ({ data }) => print({ client, value: data.numbers.value }),
  error: (error) => print({ client, error: error.message ?? error }),
  complete: () => print({ client, complete: true }),
});

function apollo(name, transport) {
  const resuming = resumeLink({ ApolloLink, Observable, ...options(name) });
  const link = ApolloLink.from([resuming, transport]);
  const client = new ApolloClient({ link, cache: new InMemoryCache() });
  const { next, error } = sink(name);
  client.subscribe({ ...payload, query: gql(payload.query) }).subscribe({
    next: (result) => (result.error ? error(result.error) : next(result)),
    error,
  });
}

function urql(name, transport, fetchSubscriptions) {
  const exchanges = [resumeExchange(options(name)), transport];
  const client = new Client({
    url: http,
    exchanges,
    fetchSubscriptions,
    fetchOptions: () => ({ headers: headers() }),
  });
  const { next, error } = sink(name);
  const request = createRequest(payload.query, {}, payload.extensions);
  client
    .executeSubscription(request)
    .subscribe((result) => (result.error ? error(result.error) : next(result)));
}

const follow = {
  'graphql-ws': (name) => withResume(connect(), options(name)).subscribe(payload, sink(name)),
  async iterate(name) {
    const results = withResume(connect(), options(name)).iterate(payload);
    for await (const result of results) sink(name).next(result);
  },
  'Apollo, WebSocket': (name) => apollo(name, new GraphQLWsLink(connect())),
  'Apollo, multipart'(name) {
    const authorize = new SetContextLink(() => ({ headers: headers() }));
    apollo(name, authorize.concat(new HttpLink({ uri: http })));
  },
  'urql, WebSocket'(name) {
    const client = connect();
    const forwardSubscription = (request) => ({
      subscribe: (sink) => ({ unsubscribe: client.subscribe(request, sink) }),
    });
    urql(name, subscriptionExchange({ forwardSubscription }), false);
  },
  'urql, SSE': (name) => urql(name, fetchExchange, true),
};

clients.forEach((name) => follow[name](name));
