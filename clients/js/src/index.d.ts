/** What a client asks for. */
export interface Request {
  readonly query?: unknown;
  readonly variables?: unknown;
  readonly operationName?: string | null;
  readonly extensions?: Record<string, unknown> | null;
}

export interface ResumeOptions {
  /**
   * Called when the server can no longer tell what a subscription missed (`CURSOR_EXPIRED`). Fetch
   * the list again, and return the cursor that came with it: the subscription continues after this
   * cursor, and not before the promise is fulfilled. If you return nothing, it continues with the
   * events from now on. If the promise is rejected, the subscription ends with that error.
   *
   * Without `onExpired` the application gets the error.
   */
  onExpired?: (request: Request) => Promise<string | null | undefined | void>;
  /** How long to wait before attempt `number`, counted from 0. Default: `retryOptions.retryWait`. */
  retryWait?: (number: number) => Promise<void>;
}

/**
 * Options for `createClient` of graphql-ws, which by default gives up if a server refuses the
 * connection, and after five attempts. Pass a function as `connectionParams`: after close code 4403
 * the client needs a fresh token.
 */
export declare const retryOptions: {
  readonly retryAttempts: number;
  readonly shouldRetry: (errorOrCloseEvent: unknown) => boolean;
  readonly retryWait: (number: number) => Promise<void>;
};

interface Sink {
  next(result: any): void;
  error(error: unknown): void;
  complete(): void;
}

/**
 * Return a client of graphql-ws or graphql-sse whose subscriptions resume: each result arrives exactly
 * once, however often the connection is lost. Create the client of graphql-ws with `retryOptions`.
 */
export declare function withResume<
  Client extends { subscribe(payload: any, sink: any): () => void },
>(client: Client, options?: ResumeOptions): Client;

interface LinkClass<Link> {
  new (
    handler: (operation: any, forward: (operation: any) => any) => any,
  ): Link;
}

interface ObservableClass {
  new (subscribe: (observer: Sink) => () => void): unknown;
}

/**
 * Return a link for Apollo Client 4 that resumes the subscriptions of the links after it, and
 * reconnects those over HTTP. Apollo's classes are arguments, so this package depends on none of its
 * versions.
 */
export declare function resumeLink<Link>(
  options: ResumeOptions & { ApolloLink: LinkClass<Link>; Observable: ObservableClass },
): Link;

/**
 * Return an exchange for urql that resumes the subscriptions of the exchanges after it, and
 * reconnects those over HTTP (`fetchSubscriptions`).
 */
export declare function resumeExchange(
  options?: ResumeOptions,
): (input: any) => (operations: any) => any;
