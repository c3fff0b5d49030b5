/** The same components on a server: `node server.js '{"ones": ["p1"], "snapshot": [...]}'` prints their HTML. */
import { StrictMode } from "react";
import { renderToString } from "react-dom/server";
import { App } from "./react.jsx";

console.log(
  renderToString(
    <StrictMode>
      <App show={JSON.parse(process.argv[2])} />
    </StrictMode>,
  ),
);
