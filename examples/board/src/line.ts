import { createClient, type Client } from 'graphql-ws';

export type LineState = 'connecting' | 'live' | 'lost' | 'cut';

const REFUSED = 4401;
const LONGEST_WAIT = 5_000;

/** The page's one WebSocket: a stock graphql-ws client, and what to show about it. */
export class Line {
  readonly client: Client;
  state: LineState = 'connecting';
  #listeners = new Set<() => void>();
  #mended = Promise.resolve();
  #mend = () => {};

  constructor(token: string, onRefused: () => void) {
    this.client = createClient({
      url: '/graphql',
      connectionParams: { token },
      // By default it gives up after five attempts, and at once if the server can't be reached.
      retryAttempts: Infinity,
      shouldRetry: () => true,
      retryWait: async (retries) => {
        await sleep(Math.random() * Math.min(500 * 2 ** retries, LONGEST_WAIT));
        await this.#mended;
      },
      on: {
        connected: () => this.#become('live'),
        closed: (event) => {
          if ((event as CloseEvent).code === REFUSED) onRefused();
          if (this.state !== 'cut') this.#become('lost');
        },
      },
    });
  }

  /** Lose the connection, as a failing network does, until `mend`. */
  cut = () => {
    this.#mended = new Promise((resolve) => (this.#mend = resolve));
    this.#become('cut');
    this.client.terminate();
  };

  mend = () => {
    this.#become('lost');
    this.#mend();
  };

  subscribe = (listener: () => void) => {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  };

  #become(state: LineState) {
    this.state = state;
    this.#listeners.forEach((listener) => listener());
  }
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
