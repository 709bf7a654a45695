/**
 * Follow one subscription over as many attempts as it takes.
 *
 * @param position moves with the results, and decides whether there is another attempt
 * @param open begins an attempt with a sink, and returns a function that ends it
 * @param sink gets each result once
 * @param retries whether to try again after this error, which is not one of GraphQL
 * @returns a function that ends the subscription
 */
export function follow(position, open, sink, retries = () => false) {
  let attempt = 0;
  let waiting = false;
  let stop;

  function start() {
    waiting = false;
    const mine = attempt;
    // A client may call the sink of an attempt that has been given up.
    const current = (handle) => (value) => {
      if (mine === attempt) handle(value);
    };
    stop = open({
      next: current(next),
      error: current(fail),
      complete: current(() => sink.complete()),
    });
  }

  async function restart(ready) {
    const mine = (attempt += 1);
    waiting = true;
    stop?.();
    try {
      await ready();
      if (mine === attempt) start();
    } catch (error) {
      if (mine === attempt) sink.error(error);
    }
  }

  function next(result) {
    const recovery = result.errors && position.recovery(result, result.extensions);
    if (recovery) restart(recovery);
    else if (position.take(result)) sink.next(result);
  }

  function fail(error) {
    const recovery = position.recovery(error) ?? (retries(error) && (() => position.pause()));
    if (recovery) restart(recovery);
    else sink.error(error);
  }

  start();
  return () => {
    if (!waiting) return stop?.();
    waiting = false;
    attempt += 1;
    sink.complete();
  };
}
