// graphql-transport-ws over one WebSocket, which is opened again when it is lost.

const PROTOCOL = "graphql-transport-ws";
const FIRST_WAIT = 500;
const LONGEST_WAIT = 10_000;
const AGAIN = 3000;
// The server refuses the token, or what was sent. Another try would end in the same way.
const FATAL = new Set([4400, 4401, 4403, 4406, 4409]);

export class Client {
  #url;
  #token;
  #onState;
  #socket = null;
  #ready = false;
  #wait = FIRST_WAIT;
  #next = 1;
  #closed = false;
  #operations = new Map();

  /** `onState` is called with "connecting", "connected", "lost" or "refused", and a reason. */
  constructor(url, token, onState) {
    this.#url = Object.assign(new URL(url), { protocol: url.protocol.replace("http", "ws") });
    this.#token = token;
    this.#onState = onState;
    this.#open();
  }

  /** Run a query or a mutation, and return its data. */
  run(query, variables = {}) {
    return new Promise((resolve, reject) => {
      let data;
      this.#add({
        payload: { query, variables },
        next: (result) => {
          if (result.errors) reject(new Error(result.errors[0].message));
          data = result.data;
        },
        error: (message) => reject(new Error(message)),
        complete: () => resolve(data),
      });
    });
  }

  /** Follow a subscription until the returned function is called. */
  follow(query, variables, { next, error }) {
    const id = this.#add({
      payload: { query, variables },
      lasts: true,
      next: (result) => (result.errors ? error(result.errors[0].message) : next(result.data)),
      error,
      complete: () => error("The server has ended this subscription"),
    });
    return () => {
      if (this.#operations.delete(id)) this.#send({ id, type: "complete" });
    };
  }

  /** Follow a subscription, and again some seconds after an error. */
  keep(query, variables, { next, error }) {
    let stop;
    let timer;
    const begin = () => {
      stop = this.follow(query, variables, { next, error: failed });
    };
    const failed = (message) => {
      error(message);
      stop?.();
      timer = setTimeout(begin, AGAIN);
    };
    begin();
    return () => {
      clearTimeout(timer);
      stop();
    };
  }

  close() {
    this.#closed = true;
    this.#socket?.close(1000);
  }

  #add(operation) {
    const id = String(this.#next++);
    this.#operations.set(id, operation);
    this.#send({ id, type: "subscribe", payload: operation.payload });
    return id;
  }

  #send(message) {
    if (this.#ready) this.#socket.send(JSON.stringify(message));
  }

  #open() {
    this.#onState("connecting");
    const socket = (this.#socket = new WebSocket(this.#url, PROTOCOL));
    socket.onopen = () => {
      const payload = { Authorization: `Bearer ${this.#token}` };
      socket.send(JSON.stringify({ type: "connection_init", payload }));
    };
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = (event) => this.#lost(event);
  }

  #receive({ id, type, payload }) {
    if (type === "connection_ack") this.#begin();
    if (type === "ping") this.#send({ type: "pong", payload });
    const operation = this.#operations.get(id);
    if (!operation) return;
    if (type === "next") operation.next(payload);
    if (type === "error" || type === "complete") this.#operations.delete(id);
    if (type === "error") operation.error(payload[0].message);
    if (type === "complete") operation.complete();
  }

  #begin() {
    this.#ready = true;
    this.#wait = FIRST_WAIT;
    this.#onState("connected");
    for (const [id, { payload }] of this.#operations) this.#send({ id, type: "subscribe", payload });
  }

  #lost({ code, reason }) {
    this.#ready = false;
    // A mutation may have been executed, so nothing but a subscription is sent again.
    for (const [id, operation] of this.#operations) {
      if (operation.lasts) continue;
      this.#operations.delete(id);
      operation.error(reason || "The connection was lost");
    }
    if (this.#closed) return;
    if (FATAL.has(code)) return this.#onState("refused", reason || `The server closed with ${code}`);
    this.#onState("lost", reason);
    setTimeout(() => this.#closed || this.#open(), this.#wait);
    this.#wait = Math.min(2 * this.#wait, LONGEST_WAIT);
  }
}
