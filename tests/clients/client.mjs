// Helpers of the scripts: options as input, one line of JSON as output, sockets that can be cut.

import { createHmac } from 'node:crypto';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

export const options = JSON.parse(process.argv[2]);

export const print = (value) => console.log(JSON.stringify(value));

export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** A graphql-ws client with its current socket, and the close codes and number of lost ones. */
export function connect({ url, ...rest }) {
  const state = { socket: undefined, closes: [], connections: 0 };
  class Watched extends WebSocket {
    constructor(...args) {
      super(...args);
      state.socket = this;
      state.connections += 1;
      // A cut while connecting is an error event; only the close event that follows counts.
      this.on('error', () => {});
      this.on('close', (code) => state.closes.push(code));
    }
  }
  const client = createClient({
    url,
    webSocketImpl: Watched,
    retryAttempts: Infinity,
    // By default the client gives up if it can't connect, but not if it loses a connection.
    shouldRetry: () => true,
    retryWait: () => pause(Math.random() * 20),
    ...rest,
  });
  return { client, state };
}

/** Run a query or a mutation over HTTP. */
export async function post(url, query, variables, token) {
  const response = await fetch(url, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(token && { authorization: `Bearer ${token}` }),
    },
    body: JSON.stringify({ query, variables }),
  });
  const { data, errors } = await response.json();
  if (errors) throw new Error(JSON.stringify(errors));
  return data;
}

/** A JSON Web Token of a subject for every topic, valid for `seconds`. */
export function token(secret, seconds, sub = 'node') {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = {
    sub,
    exp: Math.floor(Date.now() / 1000) + seconds,
    topics: { subscribe: ['*'], publish: ['*'] },
  };
  const content = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
  return `${content}.${createHmac('sha256', secret).update(content).digest('base64url')}`;
}
