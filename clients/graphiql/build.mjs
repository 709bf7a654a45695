// Bundles GraphiQL for the router into the folder that is named on the command line. Each file is
// compressed, and has a hash of its content in its name, so that browsers may keep it for good.
import { createHash } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const WORKERS = {
  editor: 'monaco-editor/esm/vs/editor/editor.worker.js',
  json: 'monaco-editor/esm/vs/language/json/json.worker.js',
  graphql: 'monaco-graphql/esm/graphql.worker.js',
};
// The policy `default-src 'self'` blocks fonts and images in `data:` URLs, so they become files.
const DATA_URL = /url\((["']?)data:([^;,"')]+)([^,"')]*),((?:(?!\1\)).)*)\1\)/gs;

// GraphiQL's style sheet contains Monaco's.
const withoutMonacoStyles = {
  name: 'without-monaco-styles',
  setup({ onLoad }) {
    onLoad({ filter: /monaco-editor.*\.css$/ }, () => ({ contents: '', loader: 'empty' }));
  },
};

const common = {
  bundle: true,
  write: false,
  minify: true,
  outdir: '/',
  target: 'es2022',
  legalComments: 'none',
  define: { 'process.env.NODE_ENV': '"production"' },
};

async function workers() {
  const bundled = await build({
    ...common,
    format: 'iife',
    entryPoints: Object.entries(WORKERS).map(([out, path]) => ({ in: path, out })),
    entryNames: '[name].worker-[hash]',
  });
  const names = bundled.outputFiles.map((file) => basename(file.path));
  const find = (label) => names.find((name) => name.startsWith(`${label}.worker-`));
  return {
    files: bundled.outputFiles,
    urls: Object.fromEntries(Object.keys(WORKERS).map((label) => [label, find(label)])),
  };
}

function page(urls) {
  return build({
    ...common,
    format: 'esm',
    splitting: true,
    jsx: 'automatic',
    entryPoints: { page: 'src/page.jsx' },
    entryNames: '[name]-[hash]',
    chunkNames: '[name]-[hash]',
    plugins: [withoutMonacoStyles],
    define: { ...common.define, WORKER_NAMES: JSON.stringify(urls) },
  });
}

function withoutDataUrls(css, files) {
  return css.replace(DATA_URL, (_all, _quote, type, encoding, data) => {
    const content = encoding.includes('base64')
      ? Buffer.from(data, 'base64')
      : Buffer.from(decodeURIComponent(data));
    const hash = createHash('sha256').update(content).digest('hex').slice(0, 12);
    const extension = type.split('/')[1].replace('+xml', '');
    const name = `data-${hash}.${extension}`;
    files.set(name, content);
    return `url(${name})`;
  });
}

const folder = resolve(process.argv[2]);
const worker = await workers();
const bundled = await page(worker.urls);
const files = new Map();
for (const { path, contents, text } of [...worker.files, ...bundled.outputFiles]) {
  const content = path.endsWith('.css') ? withoutDataUrls(text, files) : contents;
  files.set(basename(path), content);
}
await rm(folder, { recursive: true, force: true });
await mkdir(folder, { recursive: true });
let size = 0;
for (const [name, content] of files) {
  const compressed = gzipSync(content, { level: 9 });
  await writeFile(join(folder, `${name}.gz`), compressed);
  size += compressed.length;
}
console.log(`GraphiQL is built: ${files.size} files, ${Math.round(size / 1024)} kB`);
