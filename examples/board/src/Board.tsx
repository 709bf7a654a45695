import { useMutation } from '@apollo/client/react';
import { EntryForm } from './EntryForm';
import { ADD_TASK, MOVE_TASK, type Status, type Task, TASK_CHANGED, TASKS } from './operations';
import { useLiveList } from './useLiveList';

const COLUMNS: { status: Status; title: string; moves: { to: Status; label: string }[] }[] = [
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
  const { items: tasks, error } = useLiveList(TASKS, TASK_CHANGED);
  const [addTask] = useMutation(ADD_TASK);
  return (
    <section className="board" aria-labelledby="board-title">
      <h2 id="board-title">Tasks</h2>
      <EntryForm label="New task" action="Add" onEnter={({ id, text }) => addTask({ variables: { id, title: text } })} />
      {error && <p role="alert">The tasks can’t be loaded. {error.message}</p>}
      <div className="columns">
        {COLUMNS.map(({ status, title, moves }) => (
          <Column key={status} title={title} tasks={tasks.filter((task) => task.status === status)} moves={moves} />
        ))}
      </div>
    </section>
  );
}

type Moves = (typeof COLUMNS)[number]['moves'];

function Column({ title, tasks, moves }: { title: string; tasks: Task[]; moves: Moves }) {
  const headingId = `column-${title.replace(' ', '-')}`;
  return (
    <section className="column" aria-labelledby={headingId}>
      <h3 id={headingId}>
        {title} <span className="count">{tasks.length}</span>
      </h3>
      <ul>
        {tasks.map((task) => (
          <Card key={task.id} task={task} moves={moves} />
        ))}
      </ul>
    </section>
  );
}

function Card({ task, moves }: { task: Task; moves: Moves }) {
  const [moveTask, { loading }] = useMutation(MOVE_TASK);
  return (
    <li className="card">
      <p>{task.title}</p>
      <small>{task.changedBy}</small>
      {moves.map(({ to, label }) => (
        <button
          key={to}
          className="quiet"
          aria-label={`${label}: ${task.title}`}
          disabled={loading}
          onClick={() => moveTask({ variables: { id: task.id, status: to } })}
        >
          {label}
        </button>
      ))}
    </li>
  );
}
