// Draws an answer by its shape: whatever the task is called, spans are marked, shares are bars, a number is on a scale.

import { make } from "./page.js";

const MOST_BARS = 10;
const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** The elements that show `answer` to `row`. model: what /v1/models says. */
export function draw(answer, row, model) {
  if (Array.isArray(answer.entities)) return entities(answer.entities, row);
  if (typeof answer.answer === "string") return span(answer, row);
  if (typeof answer.choice === "number") return [said(answer.text), bars(choices(row).map((text, k) => [text, answer.scores[k], k === answer.choice]), "choice")];
  if (answer.relation !== undefined) return relation(answer, row);
  if (Array.isArray(answer.labels)) return labels(answer.labels, answer.scores);
  if (answer.label !== undefined) return [said(answer.label), shares(answer.scores, [answer.label])];
  if (typeof answer.similarity === "number") return number(answer.similarity, [-1, 1], "cosine");
  if (Array.isArray(answer.embedding)) return vector(answer.embedding);
  if (typeof answer.score === "number") return number(answer.score, model.range, "score");
  return [];
}

const said = (text) => make("p", { class: "said", dir: "auto" }, text);

/** A list as the server reads it: a text is cut at "|". */
const choices = (row) => Array.isArray(row.choices) ? row.choices : row.choices.split("|").map((one) => one.trim()).filter(Boolean);

/** `text` with spans marked. spans: {start, end (in code points), label, hue, title}, without overlap. */
function marked(text, spans) {
  const points = Array.from(text);
  const box = make("p", { class: "text", dir: "auto" });
  let at = 0;
  for (const one of [...spans].sort((a, b) => a.start - b.start)) {
    box.append(points.slice(at, one.start).join(""));
    box.append(make("mark", { class: `hue${one.hue % 8}`, title: one.title },
      points.slice(one.start, one.end).join(""), one.label ? make("b", {}, one.label) : undefined));
    at = one.end;
  }
  box.append(points.slice(at).join(""));
  return box;
}

function entities(found, row) {
  const kinds = [...new Set(found.map((one) => one.label))];
  const spans = found.map((one) => ({ ...one, hue: kinds.indexOf(one.label), title: `${one.label}, ${percent(one.score)}` }));
  const text = row.text ?? row.tokens.join(" ");
  return found.length
    ? [marked(text, row.text === undefined ? [] : spans), bars(found.map((one) => [one.text, one.score, false, one.label]), "entity")]
    : [marked(text, []), make("p", { class: "muted" }, "Nothing is marked in this text.")];
}

function span(answer, row) {
  const is_there = answer.start !== null && answer.start !== undefined;
  const spans = is_there ? [{ start: answer.start, end: answer.end, hue: 0 }] : [];
  const lines = [[is_there ? "this answer" : "no answer", answer.score, true]];
  if (is_there && answer.no_answer_score !== undefined) lines.push(["no answer", answer.no_answer_score, false]);
  return [said(is_there ? answer.answer : "The context does not answer this."), marked(row.context, spans), bars(lines, "")];
}

function relation(answer, row) {
  const spans = [["head_span", "head"], ["tail_span", "tail"]].map(([column, label], hue) => (
    { start: row[column][0], end: row[column][1], label, hue }));
  const [first, second] = [...spans].sort((a, b) => a.start - b.start);
  const turned = answer.direction === "tail-to-head" ? "from tail to head" : "from head to tail";
  return [said(`${answer.relation}, ${turned}`), marked(row.text, first.end <= second.start ? spans : [first]), shares(answer.scores, [answer.label])];
}

function labels(chosen, scores) {
  return [said(chosen.length ? chosen.join(", ") : "None of the labels"), shares(scores, chosen)];
}

function shares(scores, chosen) {
  const lines = Object.entries(scores).sort((a, b) => b[1] - a[1]);
  return bars(lines.map(([label, share]) => [label, share, chosen.includes(label)]), "label");
}

/** lines: [name, share, whether it is chosen, a second name]. */
function bars(lines, what) {
  const table = make("table", { "aria-label": "scores" });
  for (const [name, share, is_chosen, kind] of lines.slice(0, MOST_BARS)) {
    table.append(make("tr", { class: is_chosen ? "chosen" : undefined },
      make("th", { scope: "row", dir: "auto" }, name), kind ? make("td", {}, kind) : undefined,
      make("td", { class: "bar", "aria-hidden": "true" }, make("i", { "--share": Math.min(1, Math.max(0, share)) })),
      make("td", { class: "number" }, percent(share))));
  }
  if (lines.length <= MOST_BARS) return make("div", { class: "wide" }, table);
  return make("div", { class: "wide" }, table, make("p", { class: "hint" }, `and ${lines.length - MOST_BARS} more (${what})`));
}

function number(value, range, what) {
  if (!range) return [said(value.toString())];
  const share = Math.min(1, Math.max(0, (value - range[0]) / ((range[1] - range[0]) || 1)));
  return [said(value.toFixed(3)), make("div", { class: "scale", "aria-hidden": "true" }, make("i", { "--share": share })),
    make("p", { class: "ends" }, make("span", {}, String(range[0])), make("span", {}, what), make("span", {}, String(range[1])))];
}

function vector(numbers) {
  const largest = Math.max(...numbers.map(Math.abs)) || 1;
  const strip = make("div", { class: "strip", "aria-hidden": "true" });
  for (const one of numbers.slice(0, 384)) strip.append(make("i", { "--share": Math.abs(one) / largest }));
  return [said(`A vector of ${numbers.length} numbers`), strip];
}
