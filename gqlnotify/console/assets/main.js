// The page: the token, the connection and the section that is shown.

import { Client } from "./client.js";
import { connections } from "./connections.js";
import { el, show } from "./dom.js";
import { operations } from "./operations.js";
import { overview } from "./overview.js";
import { topic } from "./topic.js";
import { topics } from "./topics.js";

const API = new URL("../graphql", import.meta.url);
const KEY = "gqlnotify.console.token";
const SECTIONS = { overview, topics, connections, operations };
const main = document.getElementById("main");
const state = document.getElementById("state");
const leaveButton = document.getElementById("leave");

let client = null;
let leave = () => {};

function route() {
  if (client === null) return;
  leave();
  const [section, name] = location.hash.slice(1).split("/");
  const shown = section in SECTIONS ? section : "overview";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${shown}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name ? decoded(name) : shown} · gqlnotify console`;
  leave = name ? topic(main, client, decoded(name)) : SECTIONS[shown](main, client);
}

function decoded(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

function connect(token) {
  client?.close();
  sessionStorage.setItem(KEY, token);
  leaveButton.hidden = false;
  client = new Client(API, token, (now, reason) => {
    document.body.dataset.state = now;
    state.textContent = { connecting: "Connecting…", connected: "Connected", lost: "Connection lost" }[now] ?? "";
    if (now === "refused") forget(reason);
  });
  route();
}

function forget(reason) {
  leave();
  leave = () => {};
  client?.close();
  client = null;
  sessionStorage.removeItem(KEY);
  leaveButton.hidden = true;
  state.textContent = "Not connected";
  ask(reason);
}

function ask(reason) {
  const submit = (event) => {
    event.preventDefault();
    connect(new FormData(event.target).get("token").trim());
  };
  show(
    main,
    el("h1", {}, "Console"),
    reason && el("p", { class: "warning", role: "alert" }, reason),
    el(
      "form",
      { onsubmit: submit },
      el(
        "label",
        {},
        "Token with the right admin",
        el("input", { name: "token", type: "password", autocomplete: "off", required: true }),
      ),
      el("p", {}, "Make one with ", el("code", {}, "gqlnotify token --subject you --admin"), ". It stays in this tab."),
      el("button", {}, "Open the console"),
    ),
  );
  main.querySelector("input").focus();
}

function shortcut(event) {
  const typing = event.target.closest("input, textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const link = document.querySelector(`nav a[aria-keyshortcuts="${CSS.escape(event.key)}"]`);
  if (link) link.click();
  if (event.key === "/") {
    main.querySelector("input[type=search]")?.focus();
    event.preventDefault();
  }
}

// A browser sends no fragment to a server, so a token in it is in no log.
function takeFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given !== null) history.replaceState(null, "", "#overview");
  return given;
}

function follow() {
  // An operator may paste the address with a new token into the same tab, which loads nothing.
  const given = takeFromAddress();
  if (given) connect(given);
  else route();
}

addEventListener("hashchange", follow);
addEventListener("keydown", shortcut);
leaveButton.addEventListener("click", () => forget());
const token = takeFromAddress() ?? sessionStorage.getItem(KEY);
if (token) connect(token);
else ask();
