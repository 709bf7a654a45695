// Mercurius on Fastify, with its own publish and subscribe.
import Fastify from 'fastify';
import mercurius from 'mercurius';
import { PORT, TYPES, event, mayConnect } from './shared.mjs';

const app = Fastify();

app.register(mercurius, {
  schema: TYPES,
  resolvers: {
    Query: { ok: () => true },
    Mutation: {
      async publish(_, { count, room }, { pubsub }) {
        for (let i = 0; i < count; i++) {
          await pubsub.publish({ topic: room, payload: { events: event() } });
        }
        return count;
      },
    },
    Subscription: {
      events: { subscribe: (_, { room }, { pubsub }) => pubsub.subscribe(room) },
    },
  },
  subscription: { onConnect: ({ payload }) => mayConnect(payload) },
});

await app.listen({ port: PORT, host: '127.0.0.1', backlog: 2048 });
