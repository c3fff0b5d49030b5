/** Components on the page of tests/clients/test_react.py, which names what to show in `window.show`. */
import { StrictMode, useState } from "react";
import { createRoot, hydrateRoot } from "react-dom/client";
import { TidingsProvider, usePrediction, usePredictions, useText, useTidings } from "@tidings/react";

const seen = (globalThis.seen = []); // what each render of One saw

function One({ id, initial }) {
  const { prediction, deleted, loading, error } = usePrediction(id, { initial });
  seen.push(prediction?.version ?? null);
  const word = error ? `error ${error.code}` : deleted ? "deleted" : loading ? "loading" : (prediction?.status ?? "none");
  return <p className="one">{`${id} ${word} ${prediction?.version ?? ""}`}</p>;
}

function Many({ selection }) {
  const { predictions, loading } = usePredictions(selection);
  return <p className="many">{`${loading ? "loading" : "all"} ${predictions.map((one) => `${one.predictionId}:${one.version}`).join(" ")}`}</p>;
}

function Text({ id }) {
  const { text, done, loading, error } = useText(id);
  return <p className="text">{`${error ? error.code : loading ? "loading" : done ? "done" : "growing"} ${text}`}</p>;
}

function Buttons({ id }) {
  const tidings = useTidings();
  return <button onClick={async () => (window.read = (await tidings.get(id)).status)}>read</button>;
}

/** What `window.show` names; `setShow` changes it. */
export function App({ show: first }) {
  const [show, setShow] = useState(first);
  globalThis.setShow = setShow;
  return (
    <TidingsProvider key={show.user} url={show.url} token={show.token && (() => show.token)} snapshot={show.snapshot}>
      {(show.ones ?? []).map((id, index) => (
        <One key={index} id={id} />
      ))}
      {show.text && <Text id={show.text} />}
      {show.many && <Many selection={{ ...show.many }} />}
      <Buttons id={show.ones?.at(-1)} />
    </TidingsProvider>
  );
}

if (globalThis.document) {
  const root = document.querySelector("#root");
  const app = (
    <StrictMode>
      <App show={window.show} />
    </StrictMode>
  );
  if (root.firstChild) hydrateRoot(root, app, { onRecoverableError: (error) => console.error(error) });
  else createRoot(root).render(app);
}
