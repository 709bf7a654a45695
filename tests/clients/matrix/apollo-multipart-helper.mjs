import { ApolloClient, ApolloLink, gql, HttpLink, InMemoryCache, Observable } from '@apollo/client';
import { resumeLink } from 'gqlnotify';

const http = new HttpLink({
  uri: `http://${process.env.SERVER}/graphql`,
  headers: { Authorization: `Bearer ${process.env.TOKEN}` },
});
const client = new ApolloClient({
  link: resumeLink({ ApolloLink, Observable }).concat(http),
  cache: new InMemoryCache(),
});

client
  .subscribe({ query: gql`subscription { notifications(topic: "news") { payload } }` })
  .subscribe({
    next: (result) => console.log(JSON.stringify(result)),
    error: (error) => console.error('refused', error),
  });
