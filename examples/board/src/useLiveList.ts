import type { TypedDocumentNode } from '@apollo/client';
import { useSubscription } from '@apollo/client/react';
import { useState } from 'react';

type Item = { id: string };
type Live<T> = { snapshot: T[]; change: null } | { snapshot: null; change: T };
export type LiveList<T extends Item> = TypedDocumentNode<{ list: Live<T> }, Record<string, never>>;

/**
 * The items of a live list.
 *
 * The server sends a snapshot, then each change, and a snapshot again if it no longer has what this page missed.
 * There is no code here for a lost connection: the server knows where this page is.
 */
export function useLiveList<T extends Item>(document: LiveList<T>) {
  const [items, setItems] = useState<T[]>([]);
  const { error } = useSubscription(document, {
    onData: ({ data: { data } }) => {
      if (data) setItems((items) => fold(items, data.list));
    },
  });
  return { items, error };
}

function fold<T extends Item>(items: T[], { snapshot, change }: Live<T>): T[] {
  return snapshot ?? merge(items, change);
}

/** Put an item in by its id, so that one that the server sends again is not there twice. */
function merge<T extends Item>(items: T[], item: T): T[] {
  const isKnown = items.some(({ id }) => id === item.id);
  return isKnown ? items.map((known) => (known.id === item.id ? item : known)) : [...items, item];
}
