// Documents of subscriptions, those that take longest first.

import { el, number, seconds, show, table, unanswered, UNANSWERED } from "./dom.js";

const DOCUMENT = `query Operations { operations {
  operations { document name topic subscribers executions seconds meanSeconds errors
    resolvers { name calls seconds }
  }
  total ${UNANSWERED}
} }`;
const EVERY = 2000;

const COLUMNS = [
  ["Operation", (row) => el("details", {}, el("summary", {}, row.name ?? "without a name"), el("pre", {}, row.document))],
  ["Topic", (row) => el("code", {}, row.topic)],
  ["Subscribers", (row) => number(row.subscribers), "number"],
  ["Executions", (row) => number(row.executions), "number"],
  ["Mean time", (row) => seconds(row.meanSeconds), "number"],
  ["Total time", (row) => seconds(row.seconds), "number"],
  ["Slowest resolvers", (row) => row.resolvers.length ? row.resolvers.map(resolver) : null],
  ["Errors", (row) => number(row.errors), "number"],
];

const resolver = ({ name, calls, seconds: total }) =>
  el("p", {}, el("code", {}, name), ` ${seconds(total / calls)} × ${number(calls)}`);

/** Show the operations until the returned function is called. */
export function operations(main, client) {
  const body = el("div", {});
  let timer = null;
  const load = async () => {
    try {
      const { operations } = await client.run(DOCUMENT);
      // A document that someone reads must not close.
      if (!body.querySelector("details[open]")) show(body, view(operations));
    } catch (error) {
      show(body, el("p", { class: "warning", role: "alert" }, error.message));
    }
    if (timer !== undefined) timer = setTimeout(load, EVERY);
  };
  show(main, el("h1", {}, "Operations"), body);
  load();
  return () => {
    clearTimeout(timer);
    timer = undefined;
  };
}

const view = (data) => [
  unanswered(data),
  table(
    `${number(data.total)} documents of subscriptions`,
    COLUMNS,
    data.operations,
    "No subscription shares an execution.",
  ),
];
