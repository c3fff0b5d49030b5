/** A composable for Vue 3: `const { prediction, error } = usePrediction(tidings, () => props.id)`. */
import { onScopeDispose, shallowRef, toValue, watchEffect } from "vue";

export function usePrediction(tidings, id) {
  const prediction = shallowRef();
  const error = shallowRef();
  let watch;
  watchEffect(() => {
    watch?.close();
    prediction.value = error.value = undefined;
    watch = tidings.watch(toValue(id), (record) => (prediction.value = record.deleted ? undefined : record));
    watch.closed.catch((reason) => (error.value = reason));
  });
  onScopeDispose(() => watch?.close());
  return { prediction, error };
}
