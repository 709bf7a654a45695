import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

const server = 'http://127.0.0.1:8000';

export default defineConfig({
  plugins: [react()],
  // For `npm run dev`, which serves the page itself and passes the rest on.
  server: { proxy: { '/graphql': { target: server, ws: true }, '/sign-in': server } },
});
