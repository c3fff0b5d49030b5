// Shows the service's own OpenAPI document: a list of endpoints and of the objects they take and give.

const main = document.getElementById("reference");

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const nameOf = (reference) => reference.slice(reference.lastIndexOf("/") + 1);

/** What a schema takes, as nodes: references become links. */
function kind(schema) {
  if (schema.$ref) {
    const name = nameOf(schema.$ref);
    return [element("a", { href: `#schema-${name}`, textContent: name })];
  }
  if ("const" in schema) return [element("code", { textContent: JSON.stringify(schema.const) })];
  if (schema.enum) return [element("code", { textContent: schema.enum.map((one) => JSON.stringify(one)).join(", ") })];
  if (schema.anyOf) return schema.anyOf.flatMap((part, place) => (place ? [" or ", ...kind(part)] : kind(part)));
  if (schema.type === "array") return ["list of ", ...kind(schema.items ?? {})];
  return [[schema.type ?? "any JSON"].flat().join(" or ")];
}

function table(heads, rows) {
  const row = (cells, name) => element("tr", {}, ...cells.map((cell) => element(name, {}, ...[cell].flat())));
  const head = element("thead", {}, row(heads, "th"));
  const body = element("tbody", {}, ...rows.map((cells) => row(cells, "td")));
  return element("div", { className: "wide" }, element("table", {}, head, body));
}

function members(schema) {
  if (!schema.properties) return element("p", {}, ...kind(schema));
  const rows = Object.entries(schema.properties).map(([name, member]) => [
    element("code", { textContent: name }),
    kind(member),
    schema.required?.includes(name) ? "required" : "",
    member.description ?? "",
  ]);
  return table(["Member", "Type", "Needed", "Meaning"], rows);
}

/** `application/json: Prediction`, for each type of content. */
function content(said) {
  return Object.entries(said.content ?? {}).flatMap(([media, { schema }]) => [
    element("code", { textContent: media }), ...(schema?.$ref ? [": ", ...kind(schema)] : []), " ",
  ]);
}

function endpoint(method, path, operation, id) {
  const open = "security" in operation ? element("p", { className: "note", textContent: "Needs no token." }) : null;
  const parameters = operation.parameters.map((one) => [
    element("code", { textContent: one.name }), one.in, kind(one.schema), one.description ?? "",
  ]);
  const answers = Object.entries(operation.responses).map(([status, answer]) => [status, content(answer)]);
  const body = operation.requestBody ? element("p", {}, "Body: ", ...content(operation.requestBody)) : null;
  return element("section", { id },
    element("h3", { textContent: `${method} ${path}` }),
    element("p", { textContent: `${operation.summary}.` }),
    open,
    parameters.length ? table(["Parameter", "In", "Takes", "Meaning"], parameters) : null,
    body,
    table(["Status", "Answer"], answers));
}

function show(document_) {
  const operations = Object.entries(document_.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => [method.toUpperCase(), path, operation]));
  const links = operations.map(([method, path], place) =>
    element("li", {}, element("a", { href: `#endpoint-${place}`, textContent: `${method} ${path}` })));
  const schemas = Object.entries(document_.components.schemas).map(([name, schema]) =>
    element("section", { id: `schema-${name}` },
      element("h3", { textContent: name }),
      schema.description ? element("p", { textContent: schema.description }) : null,
      members(schema)));
  main.replaceChildren(
    element("p", { className: "note", textContent: `Version ${document_.info.version}` }),
    element("nav", { ariaLabel: "Endpoints" }, element("ul", {}, ...links)),
    element("h2", { textContent: "Endpoints" }),
    ...operations.map(([method, path, operation], place) => endpoint(method, path, operation, `endpoint-${place}`)),
    element("h2", { textContent: "Objects" }),
    ...schemas);
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

try {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
  show(await answer.json());
} catch (error) {
  const text = `The document could not be read: ${error.message}. Reload the page to try again.`;
  main.replaceChildren(element("p", { role: "alert", textContent: text }));
} finally {
  main.ariaBusy = "false";
}
