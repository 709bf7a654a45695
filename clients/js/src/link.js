import { follow } from './follow.js';
import { mayPass, Position } from './position.js';

// `GraphQLWsLink` reports a closed socket only if its client has given up.
const retries = ({ errors, statusCode, message }) =>
  !errors && !/^Socket closed/.test(message) && mayPass(statusCode);

/** Return an Apollo link that resumes the subscriptions of the links after it. See `index.d.ts`. */
export function resumeLink({ ApolloLink, Observable, ...options }) {
  return new ApolloLink((operation, forward) => {
    if (operation.operationType !== 'subscription') return forward(operation);
    return new Observable((observer) => {
      const position = new Position(operation, options);
      const open = (sink) => {
        // At each attempt: the links after this one may replace the object.
        operation.extensions = position.extensions;
        const subscription = forward(operation).subscribe(sink);
        return () => subscription.unsubscribe();
      };
      return follow(position, open, observer, retries);
    });
  });
}
