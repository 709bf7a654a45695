import { Client, fetchExchange, gql } from '@urql/core';

const client = new Client({
  url: `http://${process.env.SERVER}/graphql`,
  exchanges: [fetchExchange],
  fetchSubscriptions: true,
  preferGetMethod: false,
  fetchOptions: () => ({ headers: { Authorization: `Bearer ${process.env.TOKEN}` } }),
});

const NEWS = gql`subscription { notifications(topic: "news") { payload } }`;

// urql does not subscribe again by itself.
function follow() {
  const again = () => setTimeout(follow, 100);
  const { unsubscribe } = client
    .subscription(NEWS, {})
    .subscribe(({ data, error, extensions }) => {
      if (!error) return console.log(JSON.stringify({ data, extensions }));
      unsubscribe();
      again();
    });
}
follow();
