import { useMutation, useSubscription } from '@apollo/client/react';
import { useEffect, useRef, useState } from 'react';
import { PEOPLE, type Person, SET_TYPING } from './operations';

export type Notice = { id: string; text: string; sentAt: string };

const PAUSE = 3_000;

/** Who follows the chat, and a notice for each other person who has come or gone since this page opened. */
export function usePeople(me: string) {
  const last = useRef<Person[]>(undefined);
  const [notices, setNotices] = useState<Notice[]>([]);
  const { data, error } = useSubscription(PEOPLE, {
    onData: ({ data: { data } }) => {
      if (data === undefined) return;
      const others = data.people.filter(({ name }) => name !== me);
      const news = last.current ? changes(last.current, others) : [];
      last.current = others;
      if (news.length > 0) setNotices((all) => [...all, ...news]);
    },
  });
  return { people: data?.people ?? [], notices, error };
}

function changes(before: Person[], after: Person[]): Notice[] {
  const sentAt = new Date().toISOString();
  const texts = [
    ...missing(after, before).map((name) => `${name} joined`),
    ...missing(before, after).map((name) => `${name} left`),
  ];
  return texts.map((text) => ({ id: crypto.randomUUID(), text, sentAt }));
}

/** The names of the people who are in the first list and not in the second. */
function missing(people: Person[], others: Person[]): string[] {
  return people.map(({ name }) => name).filter((name) => others.every((other) => other.name !== name));
}

/** Tells the others whether this person types. A person who pauses has stopped. */
export function useTyping() {
  const [setTyping] = useMutation(SET_TYPING, { onError: () => {} });
  const told = useRef(false);
  const pause = useRef<number>(undefined);

  const tell = (typing: boolean) => {
    if (typing === told.current) return;
    told.current = typing;
    void setTyping({ variables: { typing } });
  };

  useEffect(() => () => clearTimeout(pause.current), []);

  return (text: string) => {
    clearTimeout(pause.current);
    tell(text !== '');
    pause.current = setTimeout(() => tell(false), PAUSE);
  };
}
