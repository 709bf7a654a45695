/** The longest wait, in milliseconds. */
export const LONGEST = 30_000;

/**
 * Wait before attempt `number`, counted from 0. The wait is random, so that the clients of a server
 * that restarted do not come back at the same moment.
 */
export const retryWait = (number) =>
  new Promise((done) => setTimeout(done, Math.random() * Math.min(LONGEST, 1000 * 2 ** number)));

// Close codes that no retry can mend (4400, 4401, 4406, 4409, 4429, 4500 and most below 2000) are
// fatal for graphql-ws whatever these options say. `shouldRetry` is asked about everything else,
// and by default refuses a server that can't be reached.
export const retryOptions = {
  retryAttempts: Infinity,
  shouldRetry: () => true,
  retryWait,
};
