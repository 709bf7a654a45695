import { setTimeout } from 'node:timers/promises';

import { buildHTTPExecutor } from '@graphql-tools/executor-http';
import { parse } from 'graphql';

const execute = buildHTTPExecutor({
  endpoint: `http://${process.env.SERVER}/graphql`,
  headers: { Authorization: `Bearer ${process.env.TOKEN}` },
});

const document = parse('subscription { notifications(topic: "news") { payload } }');
const extensions = {};
// The executor does not subscribe again by itself.
for (;;) {
  try {
    for await (const result of await execute({ document, extensions })) {
      extensions.after = result.extensions.cursor;
      console.log(JSON.stringify(result));
    }
  } catch {
    // The connection was cut.
  }
  await setTimeout(100);
}
