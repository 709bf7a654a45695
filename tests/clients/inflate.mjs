// Subscribes with the package ws, and prints what it reads.
// Options: ws, deflate (what `ws` offers), query, variables, ids, count.

import WebSocket from 'ws';
import { options, print } from './client.mjs';
import { read } from './reading.mjs';

const socket = new WebSocket(options.ws, 'graphql-transport-ws', {
  perMessageDeflate: options.deflate,
});
read(socket, options, { ready: (extensions) => print({ extensions }), done: print });
