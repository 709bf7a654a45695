export { resumeExchange } from './exchange.js';
export { resumeLink } from './link.js';
export { retryOptions } from './retry.js';
export { withResume } from './client.js';
