import { mayPass, Position } from './position.js';

// The signals of wonka, whose streams urql uses.
const START = 0;
const PUSH = 1;
const PULL = 0;
const push = (value) => ({ tag: PUSH, 0: value });

/** Return an exchange that resumes the subscriptions of those after it. See `index.d.ts`. */
export const resumeExchange =
  (options) =>
  ({ forward }) => {
    const positions = new Map();
    let send; // an operation to the exchanges after this one
    let deliver; // a result to those before it

    function prepare(operation) {
      if (operation.kind === 'teardown') positions.delete(operation.key);
      if (operation.kind !== 'subscription') return operation;
      const position = positions.get(operation.key) ?? new Position(operation, options);
      positions.set(operation.key, position);
      return { ...operation, extensions: position.extensions };
    }

    function recovery(position, { operation, error, extensions, hasNext }) {
      const pause = () => position.pause();
      // Over WebSocket the client of the socket retries, and reports only what it gave up.
      if (operation.context.fetchSubscriptions) {
        if (error?.networkError) return mayPass(error.response?.status) && pause;
        // A stream that ends after an event was interrupted: topics do not end.
        if (!hasNext && position.extensions.after) return pause;
      }
      return error && position.recovery(error, extensions);
    }

    async function restart(position, result, ready) {
      const { operation } = result;
      const isCurrent = () => positions.get(operation.key) === position;
      position.waiting = true;
      try {
        await ready();
        if (!isCurrent()) return;
        // Not earlier: urql can't abort a request while it hands over one of its results.
        send({ ...operation, kind: 'teardown' });
        position.waiting = false;
        send(prepare(operation));
      } catch (reason) {
        const error = Object.assign(result.error, { networkError: reason });
        if (isCurrent()) deliver({ ...result, error, hasNext: false });
      }
    }

    /** Return whether the application gets the result. */
    function receive(result) {
      const position = positions.get(result.operation.key);
      if (!position) return true;
      if (position.waiting) return false;
      const ready = recovery(position, result);
      if (ready) restart(position, result, ready);
      return !ready && (position.take(result) || Boolean(result.error));
    }

    return (operations) => (sink) => {
      let talkback;
      deliver = (result) => sink(push(result));
      const prepared = (inner) => {
        send = (operation) => inner(push(operation));
        operations((signal) => inner(signal.tag === PUSH ? push(prepare(signal[0])) : signal));
      };
      forward(prepared)((signal) => {
        if (signal.tag === START) talkback = signal[0];
        if (signal.tag === PUSH && !receive(signal[0])) talkback(PULL);
        else sink(signal);
      });
    };
  };
