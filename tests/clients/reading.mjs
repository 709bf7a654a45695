// Reads the results of subscriptions, in Node and in a browser.

/** Subscribe with each id, then report `ready`, and then `done` with the first `count` results. */
export function read(socket, { query, variables, ids, count }, { ready, done }) {
  const got = [];
  const send = (message) => socket.send(JSON.stringify(message));
  socket.onopen = () => send({ type: 'connection_init' });
  socket.onerror = () => {};
  socket.onclose = ({ code }) => done({ closed: code });
  socket.onmessage = ({ data }) => {
    const { type, id, payload } = JSON.parse(data);
    if (type === 'connection_ack') {
      ids.forEach((id) => send({ id, type: 'subscribe', payload: { query, variables } }));
      send({ type: 'ping' });
    } else if (type === 'pong') {
      ready(socket.extensions);
    } else {
      got.push([id, payload.data.notes.text]);
      if (got.length < count) return;
      socket.onclose = null;
      socket.close();
      done({ got });
    }
  };
}
