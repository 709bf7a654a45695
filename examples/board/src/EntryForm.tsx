import { type FormEvent, useState } from 'react';

type Entry = { id: string; text: string };
type Props = {
  label: string;
  action: string;
  onEnter: (entry: Entry) => Promise<unknown>;
  onType?: (text: string) => void;
};

/** One line of text to add to a list. Without a connection it waits, and is sent when there is one. */
export function EntryForm({ label, action, onEnter, onType }: Props) {
  const [text, setText] = useState('');
  const [waiting, setWaiting] = useState<Entry[]>([]);
  const [error, setError] = useState<string>();

  const send = async (entry: Entry) => {
    setWaiting((entries) => [...entries, entry]);
    try {
      await onEnter(entry);
      setError(undefined);
    } catch (reason) {
      setError(`“${entry.text}” was not sent. ${(reason as Error).message}`);
    } finally {
      setWaiting((entries) => entries.filter(({ id }) => id !== entry.id));
    }
  };

  const type = (text: string) => {
    setText(text);
    onType?.(text);
  };

  const submit = (event: FormEvent) => {
    event.preventDefault();
    type('');
    void send({ id: crypto.randomUUID(), text });
  };

  return (
    <form className="entry" onSubmit={submit}>
      <input
        aria-label={label}
        placeholder={label}
        value={text}
        onChange={(event) => type(event.target.value)}
        maxLength={500}
        pattern=".*\S.*"
        required
      />
      <button>{action}</button>
      {waiting.map((entry) => (
        <p key={entry.id} className="waiting">
          {entry.text} <small>waits for the line</small>
        </p>
      ))}
      {error && <p role="alert">{error}</p>}
    </form>
  );
}
