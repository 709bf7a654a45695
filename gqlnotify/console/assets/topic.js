// One topic: its history, its events, and publishing to it.

import { bytes, el, number, say, show, table, time } from "./dom.js";

const HISTORY = `query History($topic: String!) { history(topic: $topic) {
  length oldest newest beganAt bytes
} }`;
const EVENT = "cursor id publishedAt bytes payload";
const EVENTS = `query Events($topic: String!, $search: String!, $after: String) {
  events(topic: $topic, search: $search, after: $after) { events { ${EVENT} } searched after }
}`;
const LIVE = `subscription Live($topic: String!) { events(topic: $topic) { ${EVENT} } }`;
const PUBLISH = `mutation Publish($topic: String!, $value: JSON!, $id: String) {
  publish(topic: $topic, value: $value, eventId: $id)
}`;
const PRESENCE = `query Presence($topic: String!) { presence(topic: $topic) {
  count members { subject state connections since }
} }`;
const MOST = 200;

const COLUMNS = [
  ["Cursor", (event) => el("code", {}, event.cursor)],
  ["Published", (event) => time(event.publishedAt)],
  ["Id", (event) => event.id && el("code", {}, event.id)],
  ["Bytes", (event) => number(event.bytes), "number"],
  ["Payload", (event) => el("pre", {}, JSON.stringify(event.payload))],
];

const MEMBERS = [
  ["Subject", (member) => member.subject],
  ["Connections", (member) => number(member.connections), "number"],
  ["Since", (member) => time(member.since)],
  ["State", (member) => member.state && el("pre", {}, JSON.stringify(member.state))],
];

/** Show one topic until the returned function is called. */
export function topic(main, client, name) {
  const facts = el("div", {});
  const list = el("div", {});
  let events = [];
  let stop = null;

  const failed = (place) => (error) =>
    show(place, el("p", { class: "warning", role: "alert" }, error.message ?? error));

  const measure = () =>
    client.run(HISTORY, { topic: name }).then(({ history }) => show(facts, view(history)), failed(facts));

  const find = (search, after = null) =>
    client.run(EVENTS, { topic: name, search, after }).then(({ events: found }) => {
      // What was found is oldest first, and shown newest first.
      events = after === null ? [] : events;
      events = [...found.events.toReversed(), ...events];
      const more = found.after && el(
        "button",
        { type: "button", onclick: () => find(search, found.after) },
        "Search newer events",
      );
      const title = search ? `${events.length} events that contain “${search}”` : "Newest events";
      show(list, table(title, COLUMNS, events, "There are no such events."), more);
    }, failed(list));

  const watch = (event) => {
    const button = event.currentTarget;
    button.setAttribute("aria-pressed", String(stop === null));
    if (stop !== null) {
      stop();
      stop = null;
      return;
    }
    events = [];
    const draw = () => show(list, table("Live", COLUMNS, events, "Waiting for events…"));
    draw();
    stop = client.follow(LIVE, { topic: name }, {
      next: ({ events: fresh }) => {
        events = [fresh, ...events].slice(0, MOST);
        draw();
      },
      error: (message) => {
        stop = null;
        button.setAttribute("aria-pressed", "false");
        failed(list)(message);
      },
    });
  };

  const search = (event) => {
    event.preventDefault();
    if (stop !== null) main.querySelector("[aria-pressed]").click();
    find(new FormData(event.target).get("search"));
  };

  show(
    main,
    el("p", {}, el("a", { href: "#topics" }, "All topics")),
    el("h1", {}, name),
    facts,
    publishing(client, name, () => {
      measure();
      if (stop === null) find("");
    }),
    people(client, name),
    el("h2", {}, "Events"),
    el(
      "form",
      { class: "row", onsubmit: search },
      el("label", {}, "Search ids and payloads", el("input", { name: "search", type: "search" })),
      el("button", {}, "Search"),
      el("button", { type: "button", "aria-pressed": "false", onclick: watch }, "Watch live"),
    ),
    list,
  );
  measure();
  find("");
  return () => stop?.();
}

const view = (history) =>
  el(
    "dl",
    { class: "tiles" },
    tile("Events", number(history.length)),
    tile("Payloads, about", bytes(history.bytes)),
    tile("Oldest event", time(history.beganAt) ?? "–"),
    tile("Oldest cursor", el("code", {}, history.oldest)),
    tile("Newest cursor", el("code", {}, history.newest)),
  );

const tile = (title, value) => el("div", {}, el("dt", {}, title), el("dd", {}, value));

function people(client, name) {
  const list = el("div", {});
  const load = (event) =>
    event.target.open &&
    client.run(PRESENCE, { topic: name }).then(
      ({ presence }) => {
        const title = `${number(presence.count)} present`;
        show(list, table(title, MEMBERS, presence.members, "No one, or the topic has no presence."));
      },
      (error) => show(list, el("p", { class: "warning", role: "alert" }, error.message)),
    );
  return el("details", { ontoggle: load }, el("summary", {}, "Who is present"), list);
}

function publishing(client, name, onPublished) {
  const result = el("p", { role: "status" });
  const publish = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    try {
      const value = JSON.parse(form.get("value"));
      const id = form.get("id") || null;
      const data = await client.run(PUBLISH, { topic: name, value, id });
      result.textContent = `Published at ${data.publish}`;
      onPublished();
    } catch (error) {
      result.textContent = error.message;
    }
    say(result.textContent);
  };
  return el(
    "details",
    {},
    el("summary", {}, "Publish a test event"),
    el(
      "form",
      { onsubmit: publish },
      el("label", {}, "Value, as JSON", el("textarea", { name: "value", rows: "4", required: true })),
      el("label", {}, "Event id (optional)", el("input", { name: "id" })),
      el("button", {}, "Publish"),
      result,
    ),
  );
}
