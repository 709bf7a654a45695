import { follow } from './follow.js';
import { Position } from './position.js';

/** Return a client of graphql-ws or graphql-sse whose subscriptions resume. See `index.d.ts`. */
export function withResume(client, options) {
  function subscribe(payload, sink) {
    const position = new Position(payload, options);
    const request = { ...payload, extensions: position.extensions };
    return follow(position, (attempt) => client.subscribe(request, attempt), sink);
  }
  return { ...client, subscribe, iterate: (payload) => iterate(subscribe, payload) };
}

function iterate(subscribe, payload) {
  const results = [];
  let ended;
  let wake;
  const end = (finish) => {
    ended ??= finish;
    wake?.();
  };
  const stop = subscribe(payload, {
    next(result) {
      results.push(result);
      wake?.();
    },
    error: (error) =>
      end(() => {
        throw error;
      }),
    complete: () => end(() => {}),
  });
  const iterator = (async function* () {
    while (results.length || !ended) {
      if (results.length) yield results.shift();
      else await new Promise((resolve) => (wake = resolve));
    }
    ended();
  })();
  // A generator that waits would return only after the next result.
  iterator.return = async () => {
    stop();
    return { done: true, value: undefined };
  };
  return iterator;
}
