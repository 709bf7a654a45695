// GraphQL Yoga with graphql-ws, as its documentation joins them.
import { createServer } from 'node:http';
import { useServer } from 'graphql-ws/use/ws';
import { createPubSub, createSchema, createYoga } from 'graphql-yoga';
import { WebSocketServer } from 'ws';
import { PORT, TYPES, event, mayConnect } from './shared.mjs';

const pubSub = createPubSub();

const yoga = createYoga({
  logging: false,
  graphiql: { subscriptionsProtocol: 'WS' },
  schema: createSchema({
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
  }),
});

const server = createServer(yoga);
const sockets = new WebSocketServer({ server, path: yoga.graphqlEndpoint });
useServer(
  {
    onConnect: ({ connectionParams }) => mayConnect(connectionParams),
    execute: (args) => args.rootValue.execute(args),
    subscribe: (args) => args.rootValue.subscribe(args),
    onSubscribe: async (ctx, _id, params) => {
      const { schema, execute, subscribe, contextFactory, parse, validate } = yoga.getEnveloped({
        ...ctx,
        req: ctx.extra.request,
        socket: ctx.extra.socket,
        params,
      });
      const args = {
        schema,
        operationName: params.operationName,
        document: parse(params.query),
        variableValues: params.variables,
        contextValue: await contextFactory(),
        rootValue: { execute, subscribe },
      };
      const errors = validate(args.schema, args.document);
      return errors.length ? errors : args;
    },
  },
  sockets,
);
server.listen(PORT, '127.0.0.1', 2048);
