// The subscriptions of the page and their events. GraphiQL ends what runs in a tab when another tab is
// opened; here a subscription runs until it is stopped or its tab is closed, so that one page can
// show the event of its own mutation.
import { subscribe } from './transport.js';

const MAX_EVENTS = 50;

let feeds = [];
let openTab;
let newest = 0;
const listeners = new Set();

export const store = {
  listen(listener) {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },
  read: () => feeds,
};

function update(id, change) {
  feeds = feeds.map((feed) => (feed.id === id ? { ...feed, ...change(feed) } : feed));
  listeners.forEach((listener) => listener());
}

/** Follows which tab is open, and ends the subscriptions of those that were closed. */
export function followTabs({ tabs, activeTabIndex }) {
  openTab = tabs[activeTabIndex]?.id;
  const open = new Set(tabs.map((tab) => tab.id));
  feeds.filter((feed) => !open.has(feed.tab)).forEach(remove);
}

export function remove(feed) {
  feed.stop();
  feeds = feeds.filter((each) => each.id !== feed.id);
  listeners.forEach((listener) => listener());
}

/**
 * Runs a subscription in the open tab, as the observable that GraphiQL expects. It ignores the results
 * that come after it has unsubscribed, because another tab was opened.
 */
export function feed(name, params, headers) {
  return {
    subscribe(observer) {
      const tab = openTab;
      let attached = true;
      const tell = (what, value) => attached && observer[what](value);
      feeds.filter((each) => each.tab === tab).forEach(remove);
      const started = start({ name, tab }, params, headers, tell);
      return {
        unsubscribe() {
          attached = false;
          // GraphiQL changes the tab only after this call.
          setTimeout(() => openTab === tab && started.stop());
        },
      };
    },
  };
}

function start({ name, tab }, params, headers, tell) {
  const id = ++newest;
  const end = (text) => update(id, () => ({ state: text, live: false }));
  const unsubscribe = subscribe(params, headers, {
    state: (text) => update(id, (feed) => (feed.live ? { state: text } : {})),
    next(result) {
      update(id, (feed) => ({ events: [event(result), ...feed.events].slice(0, MAX_EVENTS) }));
      tell('next', result);
    },
    error(error) {
      const cause = readable(error);
      end(cause[0]?.message ?? String(cause));
      tell('error', cause);
    },
    complete() {
      end('complete');
      tell('complete');
    },
  });
  const stop = () => {
    unsubscribe();
    end('stopped');
  };
  const started = { id, name, tab, stop, events: [], state: 'connecting', live: true };
  feeds = [started, ...feeds];
  listeners.forEach((listener) => listener());
  return started;
}

function event(result) {
  return {
    id: ++newest,
    time: new Date(),
    cursor: result.extensions?.cursor,
    redelivered: result.extensions?.redelivered === true,
    shown: JSON.stringify(result.errors ?? content(result.data)),
    failed: Boolean(result.errors),
  };
}

function content(data) {
  const fields = Object.values(data ?? {});
  return fields.length === 1 ? fields[0] : data;
}

function readable(error) {
  if (Array.isArray(error) || error instanceof Error) return error;
  return new Error(`The connection was closed: ${error.code} ${error.reason}`);
}
