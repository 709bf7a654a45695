// Queries the task service over HTTP with urql and graphql-tools, and prints the results.

import { buildHTTPExecutor } from '@graphql-tools/executor-http';
import { Client, fetchExchange, gql } from '@urql/core';
import { parse } from 'graphql';
import { options, print } from './client.mjs';

const { url, token } = options;
const headers = { authorization: `Bearer ${token}` };
const QUERY = '{ me { subject } }';
const MUTATION = 'mutation { createTask(input: { title: "write" }) { __typename } }';
const SUBSCRIPTION = 'subscription { taskEvents { kind } }';

const urql = new Client({
  url,
  exchanges: [fetchExchange],
  fetchSubscriptions: true,
  preferGetMethod: false,
  fetchOptions: { headers },
});
const executor = buildHTTPExecutor({ endpoint: url, headers });

/** The first result of a subscription, while mutations publish events. */
async function first(subscribe, mutate) {
  const result = new Promise((done) => subscribe(done));
  const timer = setInterval(mutate, 200);
  try {
    return await result;
  } finally {
    clearInterval(timer);
  }
}

const told = ({ data, error, errors }) => ({ data, errors: error?.message ?? errors ?? null });
const byUrql = {
  query: told(await urql.query(gql(QUERY), {}).toPromise()),
  mutation: told(await urql.mutation(gql(MUTATION), {}).toPromise()),
  subscription: told(
    await first(
      (done) => urql.subscription(gql(SUBSCRIPTION), {}).subscribe(done),
      () => urql.mutation(gql(MUTATION), {}).toPromise(),
    ),
  ),
};

const run = (document) => executor({ document: parse(document) });
const byExecutor = {
  query: told(await run(QUERY)),
  mutation: told(await run(MUTATION)),
  subscription: told(
    await first(
      async (done) => {
        for await (const result of await run(SUBSCRIPTION)) done(result);
      },
      () => run(MUTATION),
    ),
  ),
};

print({ urql: byUrql, executor: byExecutor });
process.exit(0);
