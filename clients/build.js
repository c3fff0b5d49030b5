/**
 * Puts what a package holds into its folder `dist`: `node build.js`. npm does so before it packs one.
 * Nothing is compiled. The client is gateway/static/tidings.js, which pages load as it is.
 */
import { cpSync, mkdirSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const CONTENT = {
  js: {
    "../gateway/static/tidings.js": "index.js",
    "../gateway/static/tidings.d.ts": "index.d.ts",
    "js/src/api.d.ts": "api.d.ts",
  },
  react: { "react/src/index.js": "index.js", "react/src/index.d.ts": "index.d.ts" },
};

for (const [name, files] of Object.entries(CONTENT)) {
  rmSync(here(`${name}/dist`), { recursive: true, force: true });
  mkdirSync(here(`${name}/dist`));
  for (const [source, target] of Object.entries(files)) cpSync(here(source), here(`${name}/dist/${target}`));
  cpSync(here("../LICENSE"), here(`${name}/LICENSE`));
}
