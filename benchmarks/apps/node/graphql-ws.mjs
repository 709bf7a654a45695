// graphql-ws on ws, with nothing but Node's own HTTP server beside it.
import { createServer } from 'node:http';
import { graphql } from 'graphql';
import { useServer } from 'graphql-ws/use/ws';
import { createPubSub, createSchema } from 'graphql-yoga';
import { WebSocketServer } from 'ws';
import { PORT, TYPES, event, longestStretch, mayConnect } from './shared.mjs';

const pubSub = createPubSub();

const schema = createSchema({
  typeDefs: TYPES,
  resolvers: {
    Query: { ok: () => true },
    Mutation: {
      publish(_, { count, room }) {
        for (let i = 0; i < count; i++) pubSub.publish('room', room, event());
        return count;
      },
    },
    Subscription: {
      events: { subscribe: (_, { room }) => pubSub.subscribe('room', room), resolve: (it) => it },
    },
  },
});

async function read(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks).toString());
}

async function answer(request) {
  const { query, variables } = await read(request);
  return graphql({ schema, source: query, variableValues: variables });
}

const server = createServer(async (request, response) => {
  const body = JSON.stringify(
    request.url === '/longest-stretch' ? longestStretch() : await answer(request),
  );
  response.writeHead(200, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
  });
  response.end(body);
});
const sockets = new WebSocketServer({ server, path: '/graphql' });
useServer({ schema, onConnect: ({ connectionParams }) => mayConnect(connectionParams) }, sockets);
server.listen(PORT, '127.0.0.1', 2048);
