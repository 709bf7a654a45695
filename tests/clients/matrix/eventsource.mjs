import { EventSource } from 'eventsource'; // in a browser: built in

const address = new URL(`http://${process.env.SERVER}/graphql`);
address.searchParams.set('query', 'subscription { notifications(topic: "news") { payload } }');

const authorization = `Bearer ${process.env.TOKEN}`;
const source = new EventSource(address, {
  fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, authorization } }),
});

source.addEventListener('next', ({ data }) => console.log(data));
source.addEventListener('complete', () => source.close());
