// What the Node servers have in common.
import jwt from 'jsonwebtoken';

export const TYPES = /* GraphQL */ `
  type Query { ok: Boolean! }
  type Mutation { publish(count: Int!, room: String!): Int! }
  type Subscription { events(room: String!, tag: Int): Event! }
  type Event { seq: Int!  sentAt: Float!  kind: String!  text: String! }
`;

const TEXT = process.env.BENCH_TEXT;
const SECRET = process.env.BENCH_SECRET;
export const PORT = Number(process.argv[2]);

let seq = 0;

export function event() {
  const sentAt = Number(process.hrtime.bigint() / 1000n) / 1000;
  return { seq: ++seq, sentAt, kind: 'created', text: TEXT };
}

// False refuses the connection.
export function mayConnect(params) {
  if (!SECRET) return true;
  try {
    jwt.verify(String(params?.Authorization).slice(7), SECRET, { algorithms: ['HS256'] });
    return true;
  } catch {
    return false;
  }
}
