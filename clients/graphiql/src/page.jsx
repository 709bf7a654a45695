import './strict.js';
import './workers.js';
import 'graphiql/style.css';
import './page.css';
import { GraphiQL, HISTORY_PLUGIN } from 'graphiql';
import { buildClientSchema, getIntrospectionQuery, getOperationAST, parse } from 'graphql';
import { useCallback, useEffect, useRef, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { EVENTS_PLUGIN } from './events.jsx';
import { exampleTabs } from './examples.js';
import { feed, followTabs } from './feeds.js';
import { post, Unauthenticated } from './transport.js';

const PLUGINS = [EVENTS_PLUGIN, HISTORY_PLUGIN];

// Nothing is kept in the browser: headers contain tokens.
const kept = new Map();
const STORAGE = {
  get length() {
    return kept.size;
  },
  getItem: (key) => kept.get(key) ?? null,
  setItem: (key, value) => kept.set(key, value),
  removeItem: (key) => kept.delete(key),
  clear: () => kept.clear(),
};

/** Returns the token of the fragment, and removes the fragment from the address. */
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get('token');
  if (token !== null) history.replaceState(null, '', location.pathname + location.search);
  return token;
}

function authorization(token) {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Makes what GraphiQL sends operations with. `introspected` answers its first introspection. */
function makeFetcher(token, introspected) {
  let first = introspected;
  return ({ query, variables, operationName }, { headers } = {}) => {
    if (operationName === 'IntrospectionQuery' && first) {
      const result = first;
      first = null;
      return result;
    }
    const sent = () => ({ ...authorization(token.current), ...headers });
    // Soon after a change of the tab, GraphiQL still knows the name of the operation in the other one.
    const document = parse(query);
    const operation = getOperationAST(document, operationName) ?? getOperationAST(document);
    const params = { query, variables, operationName: operation?.name?.value };
    if (operation?.operation !== 'subscription') return post(params, sent());
    const [field] = operation.selectionSet.selections;
    return feed(params.operationName ?? field.name?.value ?? 'subscription', params, sent);
  };
}

function TokenForm({ label, action, onToken }) {
  const submit = (event) => {
    event.preventDefault();
    const { token } = event.target.elements;
    if (!token.value.trim()) return;
    onToken(token.value.trim().replace(/^Bearer\s+/i, ''));
    token.value = '';
  };
  return (
    <form className="token" onSubmit={submit} autoComplete="off">
      <input name="token" type="password" placeholder={label} aria-label={label} />
      <button type="submit" className="graphiql-button">
        {action}
      </button>
    </form>
  );
}

function Closed({ error, onToken, onRetry }) {
  return (
    <main className="closed">
      <h1>GraphiQL</h1>
      <p role="alert">{error.message}</p>
      {error instanceof Unauthenticated ? (
        <>
          <p>
            Paste a token. <code>gqlnotify serve</code> prints an address that contains one, and{' '}
            <code>gqlnotify token</code> makes others. This page keeps it until you leave.
          </p>
          <TokenForm label="Token" action="Open" onToken={onToken} />
        </>
      ) : (
        <button type="button" className="graphiql-button" onClick={onRetry}>
          Try again
        </button>
      )}
    </main>
  );
}

async function introspect(token) {
  const query = getIntrospectionQuery();
  const result = await post({ query, operationName: 'IntrospectionQuery' }, authorization(token));
  if (!result.data) throw new Error(result.errors?.[0]?.message ?? 'The server sent no schema.');
  return result;
}

// GraphiQL shows its tabs before it has loaded its editors, and an editor that comes later forgets
// that another tab was opened.
function editors() {
  return [import('monaco-graphql/esm/monaco-editor.js'), import('monaco-graphql/esm/lite.js')];
}

function Page() {
  const token = useRef(null);
  const [opened, setOpened] = useState(null);
  const [error, setError] = useState(null);

  const open = useCallback(async () => {
    setError(null);
    try {
      const [result] = await Promise.all([introspect(token.current), ...editors()]);
      const tabs = exampleTabs(buildClientSchema(result.data));
      setOpened({ tabs, fetcher: makeFetcher(token, result) });
    } catch (failure) {
      setError(failure);
    }
  }, []);

  const changeToken = useCallback(
    (value) => {
      token.current = value;
      open();
    },
    [open],
  );

  useEffect(() => {
    const read = () => {
      const found = takeToken();
      if (found !== null) changeToken(found);
    };
    token.current = takeToken();
    open();
    addEventListener('hashchange', read);
    return () => removeEventListener('hashchange', read);
  }, [open, changeToken]);

  if (error && !opened) return <Closed error={error} onToken={changeToken} onRetry={open} />;
  if (!opened) return <p className="closed">Asking the server for its schema…</p>;
  return (
    <GraphiQL
      fetcher={opened.fetcher}
      defaultTabs={opened.tabs}
      plugins={PLUGINS}
      visiblePlugin={EVENTS_PLUGIN}
      onTabChange={followTabs}
      shouldPersistHeaders={false}
      storage={STORAGE}
    >
      <GraphiQL.Logo>
        {error && <span role="alert">{error.message}</span>}
        <TokenForm label="New token" action="Use" onToken={changeToken} />
      </GraphiQL.Logo>
    </GraphiQL>
  );
}

createRoot(document.getElementById('graphiql')).render(<Page />);
