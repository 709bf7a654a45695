import { useMutation } from '@apollo/client/react';
import { useEffect, useRef } from 'react';
import { EntryForm } from './EntryForm';
import { type Message, MESSAGE_SENT, MESSAGES, SEND_MESSAGE } from './operations';
import { useLiveList } from './useLiveList';

const time = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });

export function Chat({ me }: { me: string }) {
  const { items: messages, error } = useLiveList(MESSAGES, MESSAGE_SENT);
  const [sendMessage] = useMutation(SEND_MESSAGE);
  return (
    <section className="chat" aria-labelledby="chat-title">
      <h2 id="chat-title">Chat</h2>
      {error && <p role="alert">The messages can’t be loaded. {error.message}</p>}
      <Log messages={messages} me={me} />
      <EntryForm label="Message" action="Send" onEnter={(variables) => sendMessage({ variables })} />
    </section>
  );
}

function Log({ messages, me }: { messages: Message[]; me: string }) {
  const log = useRef<HTMLDivElement>(null);

  useEffect(() => {
    log.current?.scrollTo({ top: log.current.scrollHeight });
  }, [messages.length]);

  return (
    <div ref={log} className="log" role="log" aria-label="Messages" tabIndex={0}>
      {messages.map(({ id, author, text, sentAt }) => (
        <article key={id} className={author === me ? 'message mine' : 'message'}>
          <p>{text}</p>
          <small>
            {author}, <time dateTime={sentAt}>{time.format(new Date(sentAt))}</time>
          </small>
        </article>
      ))}
    </div>
  );
}
