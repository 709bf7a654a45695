import { useMutation } from '@apollo/client/react';
import { useEffect, useRef, useState } from 'react';
import { EntryForm } from './EntryForm';
import {
  type Message,
  MESSAGE_SENT,
  MESSAGES,
  PRIVATE_MESSAGE_SENT,
  PRIVATE_MESSAGES,
  SEND_MESSAGE,
} from './operations';
import { useLiveList } from './useLiveList';

const time = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const EVERYONE = '';

export function Chat({ me }: { me: string }) {
  const open = useLiveList(MESSAGES, MESSAGE_SENT);
  const inbox = useLiveList(PRIVATE_MESSAGES, PRIVATE_MESSAGE_SENT);
  const [to, setTo] = useState(EVERYONE);
  const [sendMessage] = useMutation(SEND_MESSAGE);
  const error = open.error ?? inbox.error;
  const messages = [...open.items, ...inbox.items].sort((a, b) => (a.sentAt < b.sentAt ? -1 : 1));
  const others = [...new Set(messages.map(({ author }) => author))].filter((name) => name !== me);
  return (
    <section className="chat" aria-labelledby="chat-title">
      <h2 id="chat-title">Chat</h2>
      {error && <p role="alert">The messages can’t be loaded. {error.message}</p>}
      <Log messages={messages} me={me} />
      <Recipient names={others} to={to} onChange={setTo} />
      <EntryForm
        label={to === EVERYONE ? 'Message' : `Message to ${to} only`}
        action="Send"
        onEnter={(entry) => sendMessage({ variables: { ...entry, to: to === EVERYONE ? null : to } })}
      />
    </section>
  );
}

type RecipientProps = { names: string[]; to: string; onChange: (name: string) => void };

function Recipient({ names, to, onChange }: RecipientProps) {
  return (
    <label className="recipient">
      To
      <select value={to} onChange={(event) => onChange(event.target.value)}>
        <option value={EVERYONE}>Everyone</option>
        {names.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}

function Log({ messages, me }: { messages: Message[]; me: string }) {
  const log = useRef<HTMLDivElement>(null);

  useEffect(() => {
    log.current?.scrollTo({ top: log.current.scrollHeight });
  }, [messages.length]);

  return (
    <div ref={log} className="log" role="log" aria-label="Messages" tabIndex={0}>
      {messages.map(({ id, author, to, text, sentAt }) => (
        <article key={id} className={`message ${author === me ? 'mine' : ''} ${to ? 'private' : ''}`}>
          <p>{text}</p>
          <small>
            {author}
            {to && ` to ${to} only`}, <time dateTime={sentAt}>{time.format(new Date(sentAt))}</time>
          </small>
        </article>
      ))}
    </div>
  );
}
