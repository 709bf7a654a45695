import { useState } from 'react';

export type Session = { name: string; token: string };

const KEY = 'session';

/** Who is signed in here. Each window has its own session, so two windows can be two people. */
export function useSession() {
  const [session, setSession] = useState(() => JSON.parse(sessionStorage.getItem(KEY) ?? 'null') as Session | null);

  const signIn = async (name: string) => {
    const session = await requestSession(name);
    sessionStorage.setItem(KEY, JSON.stringify(session));
    setSession(session);
  };
  const signOut = () => {
    sessionStorage.removeItem(KEY);
    setSession(null);
  };
  return { session, signIn, signOut };
}

async function requestSession(name: string): Promise<Session> {
  const response = await fetch('/sign-in', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ name }),
  });
  if (!response.ok) throw new Error(`The server answered with ${response.status}`);
  return response.json();
}
