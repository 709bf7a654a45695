import { ApolloClient, ApolloLink, gql, InMemoryCache, Observable } from '@apollo/client';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { resumeLink, retryOptions } from 'gqlnotify';
import { createClient } from 'graphql-ws';

const link = new GraphQLWsLink(
  createClient({
    url: `ws://${process.env.SERVER}/graphql`,
    connectionParams: () => ({ Authorization: `Bearer ${process.env.TOKEN}` }),
    ...retryOptions,
  }),
);
const client = new ApolloClient({
  link: resumeLink({ ApolloLink, Observable }).concat(link),
  cache: new InMemoryCache(),
});

client
  .subscribe({ query: gql`subscription { notifications(topic: "news") { payload } }` })
  .subscribe({
    next: (result) => console.log(JSON.stringify(result)),
    error: (error) => console.error('refused', error),
  });
