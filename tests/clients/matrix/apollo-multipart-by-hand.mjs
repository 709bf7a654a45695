import { ApolloClient, ApolloLink, gql, HttpLink, InMemoryCache } from '@apollo/client';
import { RetryLink } from '@apollo/client/link/retry';
import { tap } from 'rxjs';

const retry = new RetryLink({ attempts: () => true, delay: { initial: 100, max: 3000 } });
const resume = new ApolloLink((operation, forward) =>
  forward(operation).pipe(
    tap((result) => {
      operation.extensions.after = result.extensions?.cursor ?? operation.extensions.after;
    }),
  ),
);
const http = new HttpLink({
  uri: `http://${process.env.SERVER}/graphql`,
  headers: { Authorization: `Bearer ${process.env.TOKEN}` },
});
const link = ApolloLink.from([retry, resume, http]);
const client = new ApolloClient({ link, cache: new InMemoryCache() });

client
  .subscribe({ query: gql`subscription { notifications(topic: "news") { payload } }` })
  .subscribe({
    next: (result) => console.log(JSON.stringify(result)),
    error: (error) => console.error('refused', error),
  });
