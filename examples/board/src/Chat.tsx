import { useMutation } from '@apollo/client/react';
import { useEffect, useRef, useState } from 'react';
import { EntryForm } from './EntryForm';
import { type Message, MESSAGES, type Person, PRIVATE_MESSAGES, SEND_MESSAGE } from './operations';
import { type Notice, usePeople, useTyping } from './people';
import { useLiveList } from './useLiveList';

const time = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const EVERYONE = '';

export function Chat({ me }: { me: string }) {
  const open = useLiveList(MESSAGES);
  const inbox = useLiveList(PRIVATE_MESSAGES);
  const { people, notices, error: peopleError } = usePeople(me);
  const onType = useTyping();
  const [to, setTo] = useState(EVERYONE);
  const [sendMessage] = useMutation(SEND_MESSAGE);
  const error = open.error ?? inbox.error ?? peopleError;
  return (
    <section className="chat" aria-labelledby="chat-title">
      <h2 id="chat-title">Chat</h2>
      {error && <p role="alert">The chat can’t be loaded. {error.message}</p>}
      <People people={people} me={me} />
      <Log entries={inOrder([...open.items, ...inbox.items, ...notices])} me={me} />
      <Recipient people={people} me={me} to={to} onChange={setTo} />
      <EntryForm
        label={to === EVERYONE ? 'Message' : `Message to ${to} only`}
        action="Send"
        onEnter={(entry) => sendMessage({ variables: { ...entry, to: to === EVERYONE ? null : to } })}
        onType={to === EVERYONE ? onType : undefined}
      />
    </section>
  );
}

function inOrder<T extends { sentAt: string }>(entries: T[]): T[] {
  return entries.sort((a, b) => Date.parse(a.sentAt) - Date.parse(b.sentAt));
}

function People({ people, me }: { people: Person[]; me: string }) {
  return (
    <ul className="people" aria-label="People">
      {people.map(({ name, typing }) => (
        <li key={name}>
          {name}
          {name === me ? ' (you)' : typing && <em> is typing…</em>}
        </li>
      ))}
    </ul>
  );
}

type RecipientProps = { people: Person[]; me: string; to: string; onChange: (name: string) => void };

function Recipient({ people, me, to, onChange }: RecipientProps) {
  const names = people.map(({ name }) => name).filter((name) => name !== me);
  // A private message reaches a person who is not here when they come back.
  const choices = to === EVERYONE || names.includes(to) ? names : [...names, to];
  return (
    <label className="recipient">
      To
      <select value={to} onChange={(event) => onChange(event.target.value)}>
        <option value={EVERYONE}>Everyone</option>
        {choices.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}

function Log({ entries, me }: { entries: (Message | Notice)[]; me: string }) {
  const log = useRef<HTMLDivElement>(null);

  useEffect(() => {
    log.current?.scrollTo({ top: log.current.scrollHeight });
  }, [entries.length]);

  return (
    <div ref={log} className="log" role="log" aria-label="Messages" tabIndex={0}>
      {entries.map((entry) =>
        'author' in entry ? (
          <Bubble key={entry.id} message={entry} isMine={entry.author === me} />
        ) : (
          <p key={entry.id} className="notice">
            {entry.text}
          </p>
        ),
      )}
    </div>
  );
}

function Bubble({ message: { author, to, text, sentAt }, isMine }: { message: Message; isMine: boolean }) {
  return (
    <article className={`message ${isMine ? 'mine' : ''} ${to ? 'private' : ''}`}>
      <p>{text}</p>
      <small>
        {author}
        {to && ` to ${to} only`}, <time dateTime={sentAt}>{time.format(new Date(sentAt))}</time>
      </small>
    </article>
  );
}
