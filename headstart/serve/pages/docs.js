// The OpenAPI description as a page: each route with an example that can be pasted into a shell.

import { call, make, setKey } from "./page.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl(path, body, hasKey) {
  const lines = [`curl ${location.origin}${path}`];
  if (hasKey) lines.push("  -H \"Authorization: Bearer $HEADSTART_API_KEY\"");
  if (body !== undefined) lines.push("  -H 'Content-Type: application/json'", `  -d ${quoted(JSON.stringify(body))}`);
  return lines.join(" \\\n");
}

function route(path, method, about, hasKey) {
  const content = about.requestBody?.content["application/json"];
  const asked = Object.entries(content?.examples ?? {});
  const answers = Object.entries(about.responses).map(([status, one]) => make("tr", {},
    make("th", { scope: "row" }, status), make("td", {}, one.description)));
  const schema = content?.schema?.anyOf?.[0] ?? content?.schema;
  const fields = Object.entries(schema?.properties ?? {}).map(([name, one]) => make("tr", {},
    make("th", { scope: "row" }, make("code", {}, name)), make("td", {}, one.description ?? one.title ?? "")));
  return make("section", {},
    make("h2", {}, make("span", { class: "method" }, method.toUpperCase()), make("code", {}, path)),
    make("p", {}, about.description ?? ""),
    ...(asked.length || content ? asked : [["", { value: undefined }]]).flatMap(([name, one]) => [
      one.summary ? make("p", { class: "muted" }, one.summary) : "",
      make("pre", { tabindex: "0" }, curl(path, one.value, hasKey && !path.startsWith("/health")))]),
    fields.length ? make("details", {}, make("summary", {}, "Fields"), make("table", {}, ...fields)) : "",
    make("details", {}, make("summary", {}, "Answers"), make("table", {}, ...answers)));
}

async function start() {
  let page;
  try {
    page = await call("openapi.json");
  } catch (error) {
    document.getElementById("about").textContent = error.message;
    document.getElementById("unlock").hidden = error.status !== 401;
    return;
  }
  show(page);
}

function show(page) {
  document.getElementById("unlock").hidden = true;
  document.getElementById("about").textContent = `headstart ${page.info.version}`;
  const hasKey = Boolean(page.components?.securitySchemes);
  document.getElementById("routes").replaceChildren(...Object.entries(page.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, about]) => route(path, method, about, hasKey))));
}

document.getElementById("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(document.getElementById("key").value);
  start();
});
start();
