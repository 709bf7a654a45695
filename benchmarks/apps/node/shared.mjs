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
let longest;

// The longest time in milliseconds by which a timer was late since the last call, as in probe.py.
export function longestStretch() {
  const told = { ms: longest?.wall ?? 0, cpuMs: longest?.cpu ?? 0 };
  if (!longest) tick(performance.now(), process.cpuUsage());
  longest = { wall: 0, cpu: 0 };
  return told;
}

function tick(began, used) {
  setTimeout(() => {
    const { user, system } = process.cpuUsage(used);
    longest.wall = Math.max(longest.wall, performance.now() - began - 1);
    longest.cpu = Math.max(longest.cpu, (user + system) / 1000);
    tick(performance.now(), process.cpuUsage());
  }, 1);
}

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
