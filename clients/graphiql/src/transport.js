// Sends operations to the address of the page: over HTTP, and subscriptions over a WebSocket.
import { createClient } from 'graphql-ws';

// For one person who watches: soon, and always the same.
const RETRY_MS = 2000;

const endpoint = new URL(location.href);
endpoint.hash = '';
const socketUrl = new URL(endpoint);
socketUrl.protocol = endpoint.protocol.replace('http', 'ws');

/** The server wants a token, or another one. */
export class Unauthenticated extends Error {}

/** Sends a query or mutation and returns its result. */
export async function post(params, headers) {
  const response = await fetch(endpoint, {
    method: 'POST',
    headers: {
      accept: 'application/graphql-response+json, application/json;q=0.9',
      'content-type': 'application/json',
      ...headers,
    },
    body: JSON.stringify(params),
  });
  const text = await response.text();
  const result = parsed(text) ?? { errors: [{ message: `${response.status} ${text}` }] };
  if (response.status === 401) throw new Unauthenticated(result.errors?.[0]?.message ?? text);
  return result;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * Starts a subscription that resumes after a lost connection, and returns what stops it. Each
 * connection calls `headers`, so that a new token counts.
 */
export function subscribe(params, headers, { next, error, complete, state }) {
  const client = createClient({
    url: socketUrl.href,
    connectionParams: headers,
    retryAttempts: Infinity,
    shouldRetry: () => true,
    retryWait: () => new Promise((resolve) => setTimeout(resolve, RETRY_MS)),
    on: {
      connected: () => state('connected'),
      closed: ({ reason }) => state(reason ? `connection lost (${reason})` : 'connection lost'),
    },
  });
  const payload = { ...params, extensions: {} };
  const stop = client.subscribe(payload, {
    next(result) {
      payload.extensions.after = result.extensions?.cursor ?? payload.extensions.after;
      next(result);
    },
    error,
    complete,
  });
  return () => {
    stop();
    client.dispose();
  };
}
