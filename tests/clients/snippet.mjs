// Runs the JavaScript of a page of the documentation as a browser would, with the API of `ws`.
// Options: code, and token, which the code may use. Each `console.log` is a line of JSON.

import WebSocket from 'ws';

import { options, print } from './client.mjs';

class Patient extends WebSocket {
  constructor(...args) {
    super(...args);
    // Where a browser goes on without a listener, `ws` would end the process.
    this.on('error', () => {});
  }
}

new Function('WebSocket', 'console', 'token', options.code)(
  Patient,
  { log: print, error: (error) => print({ error }) },
  options.token,
);
