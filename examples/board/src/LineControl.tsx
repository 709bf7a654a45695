import { useSyncExternalStore } from 'react';
import type { Line } from './line';

const LABELS = {
  connecting: 'Connecting…',
  live: 'Live',
  lost: 'Offline, reconnecting…',
  cut: 'Offline',
};

/** Shows whether the page is live, and lets you cut its line to see that nothing is lost. */
export function LineControl({ line }: { line: Line }) {
  const state = useSyncExternalStore(line.subscribe, () => line.state);
  const isCut = state === 'cut';
  return (
    <div className="line">
      <span role="status" className={`state ${state}`}>
        {LABELS[state]}
      </span>
      <button className="quiet" onClick={isCut ? line.mend : line.cut}>
        {isCut ? 'Restore the line' : 'Cut the line'}
      </button>
    </div>
  );
}
