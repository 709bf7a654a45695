// Elements without a framework. Texts never become HTML.

const SAID = 6000;
let forgetting;
let warned = "";

/** Create an element: `el("a", { href: "#x", onclick: f }, "text", child)`. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

/** Create a table. `columns` is a list of `[heading, cell of a row, "number"?]`. */
export function table(caption, columns, rows, empty) {
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el(
      "table",
      {},
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, columns.map(([name, , kind]) => heading(name, kind)))),
      el("tbody", {}, rows.length ? rows.map((row) => line(columns, row)) : nothing(columns, empty)),
    ),
  );
}

const heading = (name, kind) => el("th", { scope: "col", class: kind }, name);

const line = (columns, row) =>
  el("tr", {}, columns.map(([, cell, kind]) => el("td", { class: kind }, cell(row) ?? "–")));

const nothing = (columns, text) =>
  el("tr", {}, el("td", { colspan: columns.length, class: "empty" }, text));

/** Replace what `parent` shows, and keep the focus if the same element exists again. */
export function show(parent, ...children) {
  const key = document.activeElement?.dataset?.key;
  parent.replaceChildren(...children.flat().filter((child) => child != null));
  if (key) parent.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

/** Tell everyone, also those who use a screen reader, what has happened. */
export function say(text) {
  const said = document.getElementById("said");
  said.textContent = text;
  clearTimeout(forgetting);
  forgetting = setTimeout(() => (said.textContent = ""), SAID);
}

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const times = new Intl.DateTimeFormat("en-GB", { dateStyle: "short", timeStyle: "medium" });

export const number = (value) => (value == null ? null : numbers.format(value));
export const seconds = (value) =>
  value == null ? null : value < 1 ? `${numbers.format(value * 1000)} ms` : `${numbers.format(value)} s`;
export const time = (text) =>
  text == null ? null : el("time", { datetime: text }, times.format(new Date(text)));

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${numbers.format(value)} ${units[unit]}`;
}

/** Show which processes did not answer, and say so when that changes. */
export function unanswered({ silent, failed }) {
  const lines = [
    ...silent.map((process) => `${process.name} did not answer within a second.`),
    ...failed.map(({ process, reason }) => `${process.name}: ${reason}`),
  ];
  if (lines.join() !== warned) say(lines.join(" ") || "All processes answer again.");
  warned = lines.join();
  return lines.length ? el("div", { class: "warning" }, lines.map((line) => el("p", {}, line))) : null;
}

export const UNANSWERED = "silent { name } failed { process { name } reason }";
