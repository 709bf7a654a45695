// Runs the audit of graphql-http against a server, and prints its results.
// Options: http.

import { auditServer } from 'graphql-http';

import { options, print } from './client.mjs';

const results = await auditServer({ url: options.http });
print(results.map(({ id, name, status, reason }) => ({ id, name, status, reason })));
