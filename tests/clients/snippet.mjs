// Runs the JavaScript of a page of the documentation as a browser would, with the API of `ws`.
// Options: code, and token, which the code may use. Each `console.log` is a line of JSON.
// A line on the standard input cuts the current socket.

import { createInterface } from 'node:readline';
import WebSocket from 'ws';

import { options, print } from './client.mjs';

let current;

class Cuttable extends WebSocket {
  constructor(...args) {
    super(...args);
    current = this;
    this.on('error', () => {});
  }
}

createInterface({ input: process.stdin }).on('line', () => current.terminate());
new Function('WebSocket', 'console', 'token', options.code)(
  Cuttable,
  { log: print, error: (error) => print({ error }) },
  options.token,
);
