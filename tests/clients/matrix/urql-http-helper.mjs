import { Client, fetchExchange, gql } from '@urql/core';
import { resumeExchange } from 'gqlnotify';

const client = new Client({
  url: `http://${process.env.SERVER}/graphql`,
  exchanges: [resumeExchange(), fetchExchange],
  fetchSubscriptions: true,
  preferGetMethod: false,
  fetchOptions: () => ({ headers: { Authorization: `Bearer ${process.env.TOKEN}` } }),
});

client
  .subscription(gql`subscription { notifications(topic: "news") { payload } }`, {})
  .subscribe(({ data, error, extensions }) => {
    if (error) console.error('refused', error);
    else console.log(JSON.stringify({ data, extensions }));
  });
