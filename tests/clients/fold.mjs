// Runs the code of the page about live lists with an unchanged graphql-ws.
// Options: url, query and code, which calls `show(rows)`. Each call is a line of JSON.

import { connect, options, print } from './client.mjs';

const { client } = connect({ url: options.url });
const AsyncFunction = (async () => {}).constructor;

await new AsyncFunction('client', 'query', 'show', options.code)(client, options.query, print);
