import { useState } from "react";
import { createRoot } from "react-dom/client";
import { TidingsProvider, usePrediction, useText, useTidings } from "@tidings/react";

function Order() {
  const tidings = useTidings();
  const [id, setId] = useState();
  const { prediction } = usePrediction(id);
  const { text } = useText(id);
  const order = { provider: "replicate", model: "tidings/picture", prompt: "two herons" };
  return (
    <main>
      <button onClick={async () => setId((await tidings.create(order)).predictionId)}>Draw</button>
      <button onClick={() => tidings.cancel(id)}>Cancel</button>
      <p id={id}>{prediction?.status}</p>
      <pre>{text}</pre>
    </main>
  );
}

createRoot(document.querySelector("#root")).render(
  <TidingsProvider url="/predictions">
    <Order />
  </TidingsProvider>,
);
