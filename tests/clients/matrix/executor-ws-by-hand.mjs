import { buildGraphQLWSExecutor } from '@graphql-tools/executor-graphql-ws';
import { parse } from 'graphql';
import { createClient } from 'graphql-ws';

const execute = buildGraphQLWSExecutor(
  createClient({
    url: `ws://${process.env.SERVER}/graphql`,
    connectionParams: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
    retryAttempts: Infinity,
    shouldRetry: () => true,
  }),
);

const document = parse('subscription { notifications(topic: "news") { payload } }');
const extensions = { after: null };
for await (const result of await execute({ document, extensions })) {
  extensions.after = result.extensions.cursor;
  console.log(JSON.stringify(result));
}
