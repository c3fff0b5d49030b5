/** A store for Svelte: `const picture = prediction(tidings, id)`, then `$picture?.status` in a component. */
import { readable } from "svelte/store";

export function prediction(tidings, id) {
  return readable(undefined, (set) => {
    const watch = tidings.watch(id, (record) => set(record.deleted ? undefined : record));
    watch.closed.catch((error) => set({ status: "failed", error: error.message }));
    return () => watch.close();
  });
}
