import type { TypedDocumentNode } from '@apollo/client';
import { useQuery } from '@apollo/client/react';
import { useEffect } from 'react';

type Item = { id: string };
export type List<T extends Item> = TypedDocumentNode<{ list: { cursor: string; items: T[] } }>;
export type Changes<T extends Item> = TypedDocumentNode<{ item: T }, { after: string }>;

/**
 * A list that follows its changes.
 *
 * The list's cursor says where its changes begin, so nothing falls between the query and the subscription.
 * After that the server knows where this page is: there is no code here for a lost connection.
 */
export function useLiveList<T extends Item>(list: List<T>, changes: Changes<T>) {
  const { data, error, refetch, subscribeToMore } = useQuery(list);
  const after = data?.list.cursor;

  useEffect(() => {
    if (after === undefined) return;
    return subscribeToMore({
      document: changes,
      variables: { after },
      updateQuery: (_, { complete, previousData, subscriptionData }) =>
        complete
          ? { list: { ...previousData.list, items: merge(previousData.list.items, subscriptionData.data.item) } }
          : undefined,
      // For example, the server no longer has what this page missed.
      onError: () => void refetch().catch(() => {}),
    });
  }, [after, changes, refetch, subscribeToMore]);

  return { items: data?.list.items ?? [], error };
}

/** Put an item in by its id, so that one that the server sends again is not there twice. */
function merge<T extends Item>(items: T[], item: T): T[] {
  const isKnown = items.some(({ id }) => id === item.id);
  return isKnown ? items.map((known) => (known.id === item.id ? item : known)) : [...items, item];
}
