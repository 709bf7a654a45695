import { Client, createRequest, fetchExchange, gql } from '@urql/core';

const client = new Client({
  url: `http://${process.env.SERVER}/graphql`,
  exchanges: [fetchExchange],
  fetchSubscriptions: true,
  preferGetMethod: false,
  fetchOptions: () => ({ headers: { Authorization: `Bearer ${process.env.TOKEN}` } }),
});

const NEWS = gql`subscription { notifications(topic: "news") { payload } }`;
let after;

// urql does not subscribe again by itself.
function follow() {
  const again = () => setTimeout(follow, 100);
  const { unsubscribe } = client
    .executeSubscription(createRequest(NEWS, {}, { after }))
    .subscribe(({ data, error, extensions }) => {
      after = extensions?.cursor ?? after;
      if (!error) return console.log(JSON.stringify({ data, extensions }));
      unsubscribe();
      again();
    });
}
follow();
