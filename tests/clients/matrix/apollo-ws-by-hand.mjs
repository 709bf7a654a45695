import { ApolloClient, ApolloLink, gql, InMemoryCache } from '@apollo/client';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { createClient } from 'graphql-ws';
import { tap } from 'rxjs';

const resume = new ApolloLink((operation, forward) =>
  forward(operation).pipe(
    tap((result) => (operation.extensions.after = result.extensions?.cursor)),
  ),
);
const link = new GraphQLWsLink(
  createClient({
    url: `ws://${process.env.SERVER}/graphql`,
    connectionParams: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
    retryAttempts: Infinity,
    shouldRetry: () => true,
  }),
);
const client = new ApolloClient({ link: resume.concat(link), cache: new InMemoryCache() });

client
  .subscribe({ query: gql`subscription { notifications(topic: "news") { payload } }` })
  .subscribe({
    next: (result) => console.log(JSON.stringify(result)),
    error: (error) => console.error('refused', error),
  });
