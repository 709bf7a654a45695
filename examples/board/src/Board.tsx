import { useMutation } from '@apollo/client/react';
import { type ReactNode, useEffect, useRef, useState } from 'react';
import { EntryForm } from './EntryForm';
import { ADD_TASK, MOVE_TASK, type Status, type Task, TASKS } from './operations';
import { useLiveList } from './useLiveList';

type Move = { to: Status; label: string };

const COLUMNS: { status: Status; title: string; moves: Move[] }[] = [
  { status: 'TODO', title: 'To do', moves: [{ to: 'DOING', label: 'Start' }] },
  {
    status: 'DOING',
    title: 'Doing',
    moves: [
      { to: 'TODO', label: 'Back' },
      { to: 'DONE', label: 'Finish' },
    ],
  },
  { status: 'DONE', title: 'Done', moves: [{ to: 'DOING', label: 'Reopen' }] },
];

export function Board() {
  const { items: tasks, error } = useLiveList(TASKS);
  const [addTask] = useMutation(ADD_TASK);
  const [movedId, setMovedId] = useState<string>();
  return (
    <section className="board" aria-labelledby="board-title">
      <h2 id="board-title">Tasks</h2>
      <EntryForm label="New task" action="Add" onEnter={({ id, text }) => addTask({ variables: { id, title: text } })} />
      {error && <p role="alert">The tasks can’t be loaded. {error.message}</p>}
      <div className="columns">
        {COLUMNS.map(({ status, title, moves }) => (
          <Column key={status} title={title}>
            {tasks
              .filter((task) => task.status === status)
              .map((task) => (
                <Card key={task.id} task={task} moves={moves} isMoved={task.id === movedId} onMove={setMovedId} />
              ))}
          </Column>
        ))}
      </div>
    </section>
  );
}

function Column({ title, children }: { title: string; children: ReactNode[] }) {
  return (
    <section className="column" aria-label={title}>
      <h3>
        {title} <span className="count">{children.length}</span>
      </h3>
      <ul>{children}</ul>
    </section>
  );
}

type CardProps = { task: Task; moves: Move[]; isMoved: boolean; onMove: (id: string) => void };

function Card({ task, moves, isMoved, onMove }: CardProps) {
  const [moveTask, { loading, error }] = useMutation(MOVE_TASK, { onError: () => {} });
  const card = useRef<HTMLLIElement>(null);

  useEffect(() => {
    // The pressed button was in the other column: without this, the keyboard would start at the top again.
    if (isMoved && document.activeElement === document.body) card.current?.focus();
  }, [isMoved]);

  const move = (status: Status) => {
    onMove(task.id);
    void moveTask({ variables: { id: task.id, status } });
  };

  return (
    <li ref={card} className="card" tabIndex={-1}>
      <p>{task.title}</p>
      {loading && <p className="waiting">waits for the line</p>}
      {error && <p role="alert">{error.message}</p>}
      <small>{task.changedBy}</small>
      {moves.map(({ to, label }) => (
        <button key={to} className="quiet" aria-label={`${label}: ${task.title}`} onClick={() => move(to)}>
          {label}
        </button>
      ))}
    </li>
  );
}
