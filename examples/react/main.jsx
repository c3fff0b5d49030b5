import { createRoot } from "react-dom/client";
import { TidingsProvider, usePrediction } from "@tidings/react";

function Picture({ id }) {
  const { prediction, loading, error } = usePrediction(id);
  if (error) return <p>{error.message}</p>;
  if (loading || !prediction) return <p>waiting for {id}</p>;
  if (prediction.status === "succeeded") return <img src={prediction.imageUrl} alt={prediction.prompt} />;
  return <progress value={prediction.progress ?? 0}>{prediction.status}</progress>;
}

const { searchParams } = new URL(location.href);
createRoot(document.querySelector("#root")).render(
  <TidingsProvider url={import.meta.env.VITE_TIDINGS_URL}>
    <Picture id={searchParams.get("id")} />
  </TidingsProvider>,
);
