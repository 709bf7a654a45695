// What browsers have, for Node 20.

import WebSocket from 'ws';

globalThis.WebSocket ??= WebSocket;
