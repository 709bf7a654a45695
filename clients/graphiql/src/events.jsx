// The panel with the subscriptions of the page and their last events.
import { useSyncExternalStore } from 'react';
import { remove, store } from './feeds.js';

const TIME = { hour12: false, hour: '2-digit', minute: '2-digit', second: '2-digit' };

function Icon() {
  return (
    <svg viewBox="0 0 24 24" fill="none" stroke="currentColor" strokeWidth="1.5" height="1em">
      <path d="M2 12h4l3-8 5 16 3-8h5" strokeLinecap="round" strokeLinejoin="round" />
    </svg>
  );
}

function clock(time) {
  const milliseconds = String(time.getMilliseconds()).padStart(3, '0');
  return `${time.toLocaleTimeString([], TIME)}.${milliseconds}`;
}

function Event({ event }) {
  return (
    <li className={event.failed ? 'feed-event feed-failed' : 'feed-event'}>
      <div className="feed-position">
        <time dateTime={event.time.toISOString()}>{clock(event.time)}</time>
        <span className="feed-cursor">{event.cursor}</span>
        {event.redelivered && <span>sent again</span>}
      </div>
      <code>{event.shown}</code>
    </li>
  );
}

function Feed({ feed }) {
  return (
    <section>
      <header className="feed-head">
        <strong>{feed.name}</strong>
        <span className={feed.live ? 'feed-live' : ''}>{feed.state}</span>
        {feed.live && (
          <button type="button" className="graphiql-button" onClick={feed.stop}>
            Stop
          </button>
        )}
        {!feed.live && (
          <button type="button" className="graphiql-button" onClick={() => remove(feed)}>
            Remove
          </button>
        )}
      </header>
      {feed.events.length === 0 && <p className="feed-hint">No event yet.</p>}
      <ol className="feed-events">
        {feed.events.map((event) => (
          <Event key={event.id} event={event} />
        ))}
      </ol>
    </section>
  );
}

function Events() {
  const feeds = useSyncExternalStore(store.listen, store.read);
  return (
    <div className="feeds">
      <div className="graphiql-doc-explorer-title">Events</div>
      {feeds.length === 0 && (
        <p className="feed-hint">
          Run a subscription. Its last 50 events appear here, with their cursors, and go on arriving
          while you use other tabs.
        </p>
      )}
      {feeds.map((feed) => (
        <Feed key={feed.id} feed={feed} />
      ))}
    </div>
  );
}

export const EVENTS_PLUGIN = { title: 'Events', icon: Icon, content: Events };
