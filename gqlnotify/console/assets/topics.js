// The list of topics, once a second.

import { el, number, show, table, unanswered, UNANSWERED } from "./dom.js";

const DOCUMENT = `subscription Topics($search: String!) { topics(search: $search) {
  topics { name subscribers groups newest eventsPerSecond } total ${UNANSWERED}
} }`;

const COLUMNS = [
  ["Topic", ({ name }) => el("a", { href: address(name), "data-key": name }, name)],
  ["Subscribers", (row) => number(row.subscribers), "number"],
  ["Groups", (row) => number(row.groups), "number"],
  ["Events a second", (row) => number(row.eventsPerSecond), "number"],
  ["Newest cursor", (row) => el("code", {}, row.newest)],
];

const address = (name) => `#topics/${encodeURIComponent(name)}`;

/** Show the topics until the returned function is called. */
export function topics(main, client) {
  const body = el("div", {});
  let stop = () => {};
  const search = (text) => {
    stop();
    stop = client.keep(DOCUMENT, { search: text }, {
      next: ({ topics }) => show(body, view(topics)),
      error: (message) => show(body, el("p", { class: "warning", role: "alert" }, message)),
    });
  };
  const open = (event) => {
    event.preventDefault();
    const name = new FormData(event.target).get("name").trim();
    if (name) location.hash = address(name);
  };
  show(
    main,
    el("h1", {}, "Topics"),
    el(
      "form",
      { class: "row", onsubmit: open },
      el(
        "label",
        {},
        "Search, or the name of a topic",
        el("input", { name: "name", type: "search", oninput: (event) => search(event.target.value) }),
      ),
      el("button", {}, "Open this topic"),
    ),
    body,
  );
  search("");
  return () => stop();
}

const view = (data) => [
  unanswered(data),
  table(
    `${number(data.total)} topics that processes listen to`,
    COLUMNS,
    data.topics,
    "No process listens to such a topic.",
  ),
];
