// Open connections. The list is not live, so that a row does not move under the pointer.

import { bytes, el, number, say, show, table, time, unanswered, UNANSWERED } from "./dom.js";

const DOCUMENT = `query Connections($search: String!) { connections(search: $search) {
  connections {
    id subject tokenId address transport since heldBytes process { name }
    operations { id topic document acknowledged }
  }
  total ${UNANSWERED}
} }`;
const DISCONNECT = "mutation Disconnect($id: ID!) { disconnect(connection: $id) }";
const REVOKE = `mutation Revoke($subject: String, $tokenId: String) {
  revoke(subject: $subject, tokenId: $tokenId)
}`;

/** Show the connections. */
export function connections(main, client) {
  const body = el("div", {});
  let text = "";
  const load = () =>
    client.run(DOCUMENT, { search: text }).then(
      ({ connections }) => show(body, view(connections, act)),
      (error) => show(body, el("p", { class: "warning", role: "alert" }, error.message)),
    );
  const act = async (question, document, variables, done) => {
    if (!confirm(question)) return;
    try {
      say(done(await client.run(document, variables)));
    } catch (error) {
      say(error.message);
    }
    load();
  };
  const search = (event) => {
    event.preventDefault();
    text = new FormData(event.target).get("search");
    load();
  };
  show(
    main,
    el("h1", {}, "Connections"),
    el(
      "form",
      { class: "row", onsubmit: search },
      el("label", {}, "Search ids, subjects and addresses", el("input", { name: "search", type: "search" })),
      el("button", {}, "Search"),
    ),
    body,
  );
  load();
  return () => {};
}

const view = (data, act) => [
  unanswered(data),
  table(
    `${number(data.connections.length)} of ${number(data.total)} connections, oldest first`,
    columns(act),
    data.connections,
    "There is no such connection.",
  ),
];

const columns = (act) => [
  ["Subject", (row) => row.subject],
  ["Address", (row) => row.address],
  ["Transport", (row) => row.transport],
  ["Since", (row) => time(row.since)],
  ["Held", (row) => bytes(row.heldBytes), "number"],
  ["Operations", (row) => operations(row.operations)],
  ["Process", (row) => row.process.name],
  ["Id", (row) => el("code", {}, row.id)],
  ["Actions", (row) => actions(row, act)],
];

const operations = (list) =>
  list.length
    ? el(
        "details",
        {},
        el("summary", {}, number(list.length)),
        list.map(({ topic, document, acknowledged }) =>
          el(
            "div",
            { class: "operation" },
            topic && el("p", {}, "Topic ", el("code", {}, topic)),
            acknowledged && el("p", {}, "Acknowledged ", el("code", {}, acknowledged)),
            document && el("pre", {}, document),
          ),
        ),
      )
    : "0";

const actions = (row, act) => {
  const who = row.subject ?? row.address;
  const button = (text, label, onclick) =>
    el("button", { type: "button", "aria-label": label, onclick }, text);
  return el(
    "div",
    { class: "actions" },
    button("Disconnect", `Disconnect ${who}, connection ${row.id}`, () =>
      act(`End the connection ${row.id} of ${who}? Its client may come back.`, DISCONNECT, { id: row.id },
        ({ disconnect }) => (disconnect ? "Disconnected" : "The connection has ended already")),
    ),
    row.tokenId && button("Revoke token", `Revoke the token of connection ${row.id} of ${who}`, () =>
      act(`Revoke the token ${row.tokenId} of ${who}?`, REVOKE, { tokenId: row.tokenId }, () => "Revoked"),
    ),
    row.subject && button("Revoke subject", `Revoke all tokens of ${who}`, () =>
      act(`Revoke all tokens of ${who} that were made until now?`, REVOKE, { subject: row.subject },
        () => "Revoked"),
    ),
  );
};
