// Writes dist/: the modules as they are, and the same as CommonJS.

import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';

const source = new URL('src/', import.meta.url);
const target = new URL('dist/', import.meta.url);

/** CommonJS for the few forms of `import` and `export` that src/ uses. */
function commonJs(code) {
  const exported = [...code.matchAll(/^export (?:async )?(?:const|function|class) (\w+)/gm)];
  return [
    "'use strict';",
    code
      .replace(/^import (\{.*?\}) from '(.*?)\.js';$/gms, "const $1 = require('$2.cjs');")
      .replace(/^export \{ (\w+) \} from '(.*?)\.js';$/gm, "exports.$1 = require('$2.cjs').$1;")
      .replace(/^export /gm, ''),
    ...exported.map(([, name]) => `exports.${name} = ${name};`),
    '',
  ].join('\n');
}

await rm(target, { recursive: true, force: true });
await mkdir(target);
for (const name of await readdir(source)) {
  await cp(new URL(name, source), new URL(name, target));
  const code = await readFile(new URL(name, source), 'utf8');
  if (name.endsWith('.d.ts')) await writeFile(new URL('index.d.cts', target), code);
  else await writeFile(new URL(name.replace(/\.js$/, '.cjs'), target), commonJs(code));
}
