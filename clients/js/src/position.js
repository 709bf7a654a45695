import { retryWait } from './retry.js';

// Errors that end an attempt, while a later one, or one at another server, can succeed.
const PASSING = /UNAVAILABLE$|^TOO_MANY_CONNECTIONS|^TOPICS_CLOSED$/;

function isAtOrBefore(cursor, last = '') {
  const [epoch, seq] = cursor.split('-');
  const [lastEpoch, lastSeq] = last.split('-');
  return epoch === lastEpoch && Number(seq) <= Number(lastSeq);
}

/** The extensions of the first GraphQL error in what a client reports. */
function extensionsOf(error) {
  const errors = error.errors ?? error.graphQLErrors ?? error;
  return errors[0]?.extensions ?? {};
}

/** Whether another attempt may succeed after a response with this status, or none. */
export const mayPass = (status) => !(status >= 400 && status < 500) || status === 429;

/** The position of one subscription, and how it goes on after an interruption. */
export class Position {
  /**
   * @param request the operation; `onExpired` gets it
   * @param options see `ResumeOptions`
   */
  constructor(request, { onExpired, retryWait: wait = retryWait } = {}) {
    this.request = request;
    this.onExpired = onExpired;
    this.wait = wait;
    this.failures = 0;
    // Clients serialise this object again at each attempt, so it moves instead of being replaced.
    this.extensions = { ...request.extensions };
  }

  /** Move to a result. Returns false if it was received before. */
  take({ extensions }) {
    const cursor = extensions?.cursor;
    if (!cursor) return true;
    if (isAtOrBefore(cursor, this.extensions.after)) return false;
    this.extensions.after = cursor;
    this.failures = 0;
    return true;
  }

  /**
   * Return a function that waits until the next attempt may begin, or undefined if there should be
   * none. `extensions` are those of the result with the error, if there is one.
   */
  recovery(error, extensions) {
    const { code, cursor = extensions?.cursor } = extensionsOf(error);
    if (code === 'CURSOR_EXPIRED' && this.onExpired) return () => this.expire(cursor);
    if (PASSING.test(code) && this.extensions.after) return () => this.pause();
  }

  /** Wait before an attempt that follows a failure. */
  pause() {
    return this.wait(this.failures++);
  }

  async expire(fresh) {
    // The first time at once. If the new cursor is refused too, not in a tight loop.
    if (this.failures) await this.pause();
    else this.failures = 1;
    this.extensions.after = (await this.onExpired(this.request)) ?? fresh;
  }
}
