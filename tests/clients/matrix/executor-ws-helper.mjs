import { buildGraphQLWSExecutor } from '@graphql-tools/executor-graphql-ws';
import { retryOptions, withResume } from 'gqlnotify';
import { parse } from 'graphql';
import { createClient } from 'graphql-ws';

const execute = buildGraphQLWSExecutor(
  withResume(
    createClient({
      url: `ws://${process.env.SERVER}/graphql`,
      connectionParams: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
      ...retryOptions,
    }),
  ),
);

const document = parse('subscription { notifications(topic: "news") { payload } }');
for await (const result of await execute({ document })) console.log(JSON.stringify(result));
