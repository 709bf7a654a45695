import { type FormEvent, useState } from 'react';

export function SignIn({ onSignIn }: { onSignIn: (name: string) => Promise<void> }) {
  const [error, setError] = useState<string>();

  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const name = String(new FormData(event.currentTarget).get('name'));
    onSignIn(name).catch((reason: Error) => setError(`You are not signed in. ${reason.message}`));
  };

  return (
    <main className="sign-in">
      <form onSubmit={submit}>
        <h1>Board</h1>
        <p>Tasks and a chat, live in every window. Open this page twice and be two people.</p>
        <label>
          Your name
          <input name="name" autoComplete="nickname" maxLength={40} pattern=".*\S.*" required autoFocus />
        </label>
        <button>Sign in</button>
        {error && <p role="alert">{error}</p>}
      </form>
    </main>
  );
}
