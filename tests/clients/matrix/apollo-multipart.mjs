import { ApolloClient, gql, HttpLink, InMemoryCache } from '@apollo/client';
import { RetryLink } from '@apollo/client/link/retry';

const retry = new RetryLink({ attempts: () => true, delay: { initial: 100, max: 3000 } });
const http = new HttpLink({
  uri: `http://${process.env.SERVER}/graphql`,
  headers: { Authorization: `Bearer ${process.env.TOKEN}` },
});
const client = new ApolloClient({ link: retry.concat(http), cache: new InMemoryCache() });

client
  .subscribe({ query: gql`subscription { notifications(topic: "news") { payload } }` })
  .subscribe({
    next: (result) => console.log(JSON.stringify(result)),
    error: (error) => console.error('refused', error),
  });
