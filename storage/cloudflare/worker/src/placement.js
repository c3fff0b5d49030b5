// Where objects are to be: a location is a hint for the first time that an object is made, a jurisdiction is a rule, and
// objects of a jurisdiction are others than those of the same names without one (Cloudflare, Durable Objects, Data
// location).
import { Problem } from "./http.js";

const LOCATIONS = ["wnam", "enam", "sam", "weur", "eeur", "apac", "oc", "afr", "me"];
const JURISDICTIONS = ["eu", "fedramp"];

export function placementOf(headers) {
  return {
    location: one(headers, "tidings-location", LOCATIONS),
    jurisdiction: one(headers, "tidings-jurisdiction", JURISDICTIONS),
  };
}

export function stubOf(namespace, name, { location, jurisdiction }) {
  const within = jurisdiction ? namespace.jurisdiction(jurisdiction) : namespace;
  const id = within.idFromName(name);
  return location ? within.get(id, { locationHint: location }) : within.get(id);
}

function one(headers, name, known) {
  const value = headers.get(name);
  if (value === null || known.includes(value)) return value ?? undefined;
  throw new Problem(400, "bad_placement", `${name} is one of ${known.join(", ")}, not ${JSON.stringify(value)}`);
}
