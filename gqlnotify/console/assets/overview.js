// The figures of all processes, once a second.

import { bytes, el, number, seconds, show, table, time, unanswered, UNANSWERED } from "./dom.js";
import { Series } from "./plot.js";

const DOCUMENT = `subscription Overview { overview {
  connections streams operations heldBytes gaps
  rates { deliveries executions executionsSaved published lagSeconds }
  refusals { reason count }
  processes {
    process { name version startedAt } connections streams operations topics heldBytes deliveries
  }
  others { name version }
  ${UNANSWERED}
} }`;

const PLOTS = [
  ["Deliveries a second", "deliveries", number],
  ["Executions a second", "executions", number],
  ["Executions saved a second", "executionsSaved", number],
  ["Events published a second", "published", number],
  ["Publish to write", "lagSeconds", seconds],
];

const PROCESSES = [
  ["Process", (row) => row.process.name],
  ["Version", (row) => row.process.version],
  ["Since", (row) => time(row.process.startedAt)],
  ["WebSockets", (row) => number(row.connections), "number"],
  ["Streams", (row) => number(row.streams), "number"],
  ["Operations", (row) => number(row.operations), "number"],
  ["Topics", (row) => number(row.topics), "number"],
  ["Held", (row) => bytes(row.heldBytes), "number"],
  ["Deliveries", (row) => number(row.deliveries), "number"],
];

const REFUSALS = [
  ["Reason", (row) => el("code", {}, row.reason)],
  ["Count", (row) => number(row.count), "number"],
];

/** Show the overview until the returned function is called. */
export function overview(main, client) {
  const series = new Map(PLOTS.map(([, name]) => [name, new Series()]));
  const body = el("div", {}, el("p", {}, "Asking all processes…"));
  show(main, el("h1", {}, "Overview"), body);
  return client.keep(DOCUMENT, {}, {
    next: ({ overview }) => {
      for (const [, name] of PLOTS) series.get(name).add(overview.rates?.[name]);
      show(body, view(overview, series));
    },
    error: (message) => show(body, el("p", { class: "warning", role: "alert" }, message)),
  });
}

const view = (data, series) => [
  unanswered(data),
  el(
    "dl",
    { class: "tiles" },
    tile("Processes that answer", number(data.processes.length)),
    tile("WebSockets", number(data.connections)),
    tile("HTTP streams", number(data.streams)),
    tile("Operations", number(data.operations)),
    tile("Held for slow readers", bytes(data.heldBytes)),
    tile("Gaps", number(data.gaps)),
    PLOTS.map(([title, name, format]) => {
      const value = format(data.rates?.[name]) ?? "–";
      return tile(title, value, series.get(name).plot(`${title} in the last minute, now ${value}`));
    }),
  ),
  table("Processes", PROCESSES, data.processes, "No process has answered."),
  others(data.others),
  table("Refusals by reason", REFUSALS, data.refusals, "Nothing was refused."),
];

const others = (processes) =>
  processes.length
    ? el("p", {}, "Without a router: ", processes.map(({ name }) => name).join(", "), ".")
    : null;

const tile = (title, value, plot) =>
  el("div", {}, el("dt", {}, title), el("dd", {}, value), plot ? el("dd", {}, plot) : null);
