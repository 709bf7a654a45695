import { ApolloClient, InMemoryCache } from '@apollo/client';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { ApolloProvider } from '@apollo/client/react';
import { useState } from 'react';
import { Board } from './Board';
import { Chat } from './Chat';
import { Line } from './line';
import { LineControl } from './LineControl';
import { type Session, useSession } from './session';
import { SignIn } from './SignIn';

export function App() {
  const { session, signIn, signOut } = useSession();
  return session ? <Workspace session={session} onSignOut={signOut} /> : <SignIn onSignIn={signIn} />;
}

function Workspace({ session, onSignOut }: { session: Session; onSignOut: () => void }) {
  const [{ line, apollo }] = useState(() => connect(session.token, onSignOut));
  return (
    <ApolloProvider client={apollo}>
      <header>
        <h1>Board</h1>
        <LineControl line={line} />
        <div className="who">
          {session.name}
          <button className="quiet" onClick={onSignOut}>
            Sign out
          </button>
        </div>
      </header>
      <main>
        <Board />
        <Chat me={session.name} />
      </main>
    </ApolloProvider>
  );
}

function connect(token: string, onRefused: () => void) {
  const line = new Line(token, onRefused);
  const apollo = new ApolloClient({ link: new GraphQLWsLink(line.client), cache: new InMemoryCache() });
  return { line, apollo };
}
