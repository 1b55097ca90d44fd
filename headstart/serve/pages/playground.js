// The playground: fields follow the model's columns, the answer is drawn by its shape.

import { draw } from "./draw.js";
import { call, make, setKey } from "./page.js";

const $ = (id) => document.getElementById(id);
const HINTS = { list: "one a line", span: "words of the text" };
let models = [], model = null, asked = 0;

async function start() {
  try {
    models = (await call("v1/models")).data;
  } catch (error) {
    if (error.status === 401) {
      $("unlock").hidden = false;
      $("key").focus();
      if ($("key").value) fail(error);
    } else {
      fail(error);
    }
    return;
  }
  $("unlock").hidden = $("answer").hidden = true;
  $("ask").hidden = false;
  $("model").replaceChildren(...models.map((one) => make("option", { value: one.id }, one.id)));
  $("models").hidden = models.length < 2;
  choose();
}

function choose() {
  model = models.find((one) => one.id === $("model").value) ?? models[0];
  $("title").textContent = model.id;
  const score = typeof model.score === "number" ? ` · ${model.metric} ${model.score.toFixed(3)} on its test rows` : "";
  $("about").textContent = `${model.task}${score}`;
  document.title = `${model.id}: headstart`;
  $("fields").replaceChildren(...model.fields.map(field));
  $("samples").hidden = !model.examples.length;
  $("sample").replaceChildren(...model.examples.map((row, i) => make("option", { value: i }, summary(row))));
  $("answer").hidden = true;
  fill();
}

const summary = (row) => {
  const text = String(row[model.fields[0].name] ?? "");
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
};

function field({ name, kind, rule, required }) {
  const note = HINTS[kind] ?? (required ? "" : "may be empty");
  const input = kind === "span" ? make("input", { id: `field-${name}`, dir: "auto", autocomplete: "off", required })
    : make("textarea", { id: `field-${name}`, dir: "auto", required, spellcheck: "false", class: name === "question" ? "short" : undefined });
  input.title = rule;
  return make("label", {}, name.replace("_", " "), make("span", {}, note), input);
}

function fill() {
  const row = model.examples[$("sample").value] ?? {};
  for (const { name, kind } of model.fields) {
    const value = row[name];
    $(`field-${name}`).value = value === undefined ? "" : kind === "list" ? value.join("\n")
      : kind === "span" ? Array.from(row.text).slice(...value).join("") : value;
  }
}

/** The row that the fields mean. Throws an Error that says which field is not right. */
function row() {
  const found = {};
  for (const { name, kind, required } of model.fields) {
    const value = $(`field-${name}`).value;
    if (!value.trim() && !required) continue;
    if (kind === "list") found[name] = value.split("\n").map((one) => one.trim()).filter(Boolean);
    else if (kind === "span") found[name] = place(found.text, value, name);
    else found[name] = value;
  }
  return found;
}

/** [start, end) in code points of the words `value` in `text`. */
function place(text, value, name) {
  const at = text.indexOf(value);
  if (at < 0 || !value) throw new Error(`${name.replace("_", " ")}: these words are not in the text.`);
  const start = Array.from(text.slice(0, at)).length;
  return [start, start + Array.from(value).length];
}

async function send() {
  const mine = ++asked;
  $("send").disabled = true;
  try {
    const one = row();
    const said = await call("v1/predict", { model: model.id, rows: [one] });
    if (mine === asked) show(said, one);
  } catch (error) {
    if (mine === asked) fail(error);
  } finally {
    $("send").disabled = false;
  }
}

function show(said, one) {
  const answer = said.predictions[0];
  const { n_tokens, n_cut_tokens } = said.usage;
  const cut = n_cut_tokens ? `; ${n_cut_tokens} more did not fit and were not read` : "";
  $("answer").replaceChildren(...draw(answer, one, model),
    make("p", { class: "hint" }, `${n_tokens} tokens${cut}`),
    make("details", {}, make("summary", {}, "JSON"), make("pre", { tabindex: "0" }, JSON.stringify(answer, short, 1))));
  $("answer").hidden = false;
}

const short = (_, value) => Array.isArray(value) && value.length > 50 ? [...value.slice(0, 8), `… ${value.length} in all`] : value;

function fail(error) {
  $("answer").replaceChildren(make("p", { class: "error", role: "alert" }, error.message));
  $("answer").hidden = false;
}

$("model").addEventListener("change", choose);
$("sample").addEventListener("change", () => { fill(); send(); });
$("ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("ask").requestSubmit(); }
});
$("unlock").addEventListener("submit", (event) => { event.preventDefault(); setKey($("key").value); start(); });

await start();
// A link may ask for a model and an answer at once: /#reviews
const wanted = decodeURIComponent(location.hash.slice(1));
if (models.some((one) => one.id === wanted)) { $("model").value = wanted; choose(); await send(); }
