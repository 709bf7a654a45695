import { LONGEST, retryWait } from './retry.js';

// Errors that end an attempt, while a later one, or one at another server, can succeed.
const PASSING = /UNAVAILABLE$|^TOO_MANY_CONNECTIONS|^TOPICS_CLOSED$/;
// A stream over HTTP ends with its token. The next attempts may have a fresh one.
const NO_TOKEN = 'UNAUTHENTICATED';
const ATTEMPTS_WITHOUT_TOKEN = 3;

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
    this.failedAt = 0;
    this.expired = false;
    // Clients serialise this object again at each attempt, so it moves instead of being replaced.
    this.extensions = { ...request.extensions };
  }

  /** Move to a result. Returns false if it was received before. */
  take({ extensions }) {
    const cursor = extensions?.cursor;
    if (!cursor) return true;
    if (!this.isNew(cursor)) return false;
    this.extensions.after = cursor;
    this.failures = 0;
    this.expired = false;
    return true;
  }

  isNew(cursor) {
    const [epoch, seq] = cursor.split('-');
    const [lastEpoch, lastSeq] = (this.extensions.after ?? '').split('-');
    return epoch !== lastEpoch || Number(seq) > Number(lastSeq);
  }

  /**
   * Return a function that waits until the next attempt may begin, or undefined if there should be
   * none. `extensions` are those of the result with the error, if there is one.
   */
  recovery(error, extensions) {
    const { code, cursor = extensions?.cursor } = extensionsOf(error);
    if (code === 'CURSOR_EXPIRED' && this.onExpired) return () => this.expire(cursor);
    const ofAnEvent = extensions?.cursor && this.isNew(extensions.cursor);
    if (this.extensions.after && !ofAnEvent && this.mayPass(code)) return () => this.pause();
  }

  mayPass(code) {
    return code === NO_TOKEN ? this.failures < ATTEMPTS_WITHOUT_TOKEN : PASSING.test(code);
  }

  /** Wait before an attempt that follows a failure. */
  pause() {
    // An attempt that lasted did not fail, even if there was no event.
    if (Date.now() - this.failedAt > 2 * LONGEST) this.failures = 0;
    this.failedAt = Date.now();
    return this.wait(this.failures++);
  }

  async expire(fresh) {
    // Without a wait only once: the new cursor may be refused too.
    if (this.expired) await this.pause();
    this.expired = true;
    this.extensions.after = (await this.onExpired(this.request)) ?? fresh;
  }
}
