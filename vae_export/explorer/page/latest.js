// Work that is asked for faster than it can be done: the last request counts, those between are dropped.

import { Closed } from "./model.js";

/**
 * @param {(stale: () => boolean) => Promise<void>} task may ask whether a newer request makes it useless, and return early
 * @returns {() => Promise<void>} ask for it
 */
export function latest(task) {
  let [wanted, running] = [0, false];
  return async () => {
    wanted += 1;
    if (running) return;
    running = true;
    try {
      for (let done = 0; done !== wanted; ) {
        done = wanted;
        const asked = wanted;
        try {
          await task(() => wanted !== asked);
        } catch (error) {
          if (!(error instanceof Closed)) throw error; // whoever closed the model asks again with the next one
        }
      }
    } finally {
      running = false;
    }
  };
}
