// Monaco's workers, from the address of this file.
globalThis.MonacoEnvironment = {
  getWorker(_id, label) {
    const name = WORKER_NAMES[label] ?? WORKER_NAMES.editor;
    return new Worker(new URL(`./${name}`, import.meta.url));
  },
};
