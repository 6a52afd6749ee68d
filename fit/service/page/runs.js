// The table of runs: sorted, filtered, unticked to see how far N* moves without a run; with the curve of each.

import { getDocument, Newest, ServiceError } from "./api.js";
import { palette, trainingChart } from "./charts.js";
import { fault, find, make } from "./elements.js";
import { change, four, percent, power, short } from "./format.js";
import { pageWords } from "./limits.js";
import { source } from "./state.js";
import { residual } from "./tables.js";

const MOST = 300;
/** Most runs left out at a time, as the service takes them. */
const MOST_LEFT_OUT = 50;
/** Columns: name, heading, how a cell reads, and whether the first click puts the largest first. */
const COLUMNS = [
  ["run", "Run", String, false],
  ["flops", "Compute [FLOP]", power, false],
  ["params", "Parameters", short, false],
  ["tokens", "Tokens", short, false],
  ["loss", "Loss", four, false],
  ["residual", "Residual", null, true],
  ["influence", "Influence on N*", (v) => (v == null ? "–" : `${change({ value: 100 * Math.expm1(v) }, (x) => x.toFixed(1))}%`), true],
];
/** Sorted by the size of these, whatever their sign. */
const BY_SIZE = new Set(["residual", "influence"]);
/** A pointer that merely passes over a row asks for nothing. */
const HOVER_MS = 120;
const request = new Newest();
const training = new Newest();
/** Training curves by the row of the run. */
const curves = new Map();
let shown = null;
let timer = 0;
let runs = [];
let unit = "";
let sorting = { name: "flops", descending: false };
const unticked = new Set();
let answered = () => null;
let drawn = () => {};

/** Set up the table; `answer` gives the present answer, `draw` is called with the law without runs, or null. */
export function listenToRuns(answer, draw) {
  [answered, drawn] = [answer, draw];
  find("#filter-runs").addEventListener("input", showRows);
  find("#table-runs").addEventListener("toggle", () => drawCurve());
  find("#tick-all").addEventListener("click", () => {
    unticked.clear();
    showRows();
    leaveOut();
  });
}

/** Show the runs of a law; none of a published one. */
export function showRuns(document) {
  request.cancel();
  unticked.clear();
  curves.clear();
  showCurve(null);
  runs = document?.runs ?? [];
  unit = document?.loss_unit ?? "";
  sorting = { name: "flops", descending: false };
  find("#filter-runs").value = "";
  find("#table-runs").hidden = !runs.length;
  find("#without").replaceChildren();
  fault(find("#without-fault"), null);
  showRows();
}

function showRows() {
  const wanted = find("#filter-runs").value.toLowerCase().split(/\s+/).filter(Boolean);
  const size = (run) => (BY_SIZE.has(sorting.name) ? Math.abs(run[sorting.name] ?? 0) : run[sorting.name]);
  const order = (a, b) => (size(a) < size(b) ? -1 : size(a) > size(b) ? 1 : 0) * (sorting.descending ? -1 : 1);
  const found = runs.filter((run) => wanted.every((word) => matches(run, word))).toSorted(order);
  const head = COLUMNS.map(([name, words, , descending]) => {
    const sort = make("button", { type: "button", class: "quiet small" }, words);
    sort.addEventListener("click", () => {
      sorting = { name, descending: sorting.name === name ? !sorting.descending : descending };
      showRows();
      find(`#runs-table [data-sort=${name}] button`).focus();
    });
    const now = sorting.name !== name ? null : sorting.descending ? "descending" : "ascending";
    return make("th", { scope: "col", "aria-sort": now, "data-sort": name }, sort);
  });
  find("#runs-table").replaceChildren(make("table", {},
    make("caption", { class: "visually-hidden" }, "The fitted runs"),
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Used"), head)),
    make("tbody", {}, found.slice(0, MOST).map(row))));
  const many = found.length > MOST ? `; the first ${MOST} are shown, all are in the CSV` : "";
  find("#runs-count").textContent = `${found.length} of ${runs.length} runs${many}`;
  find("#tick-all").hidden = !unticked.size;
}

/** Whether a run has a word in its name, or fulfils a condition such as loss<1.02 or params>=1M. */
function matches(run, word) {
  const [, name, sign, text] = /^([a-z]+)(<=|>=|<|>|=)(.+)$/.exec(word) ?? [];
  if (!name || !(name in run)) return run.run.toLowerCase().includes(word);
  const value = Number(text.replace(/[kmbt]$/, (u) => ({ k: "e3", m: "e6", b: "e9", t: "e12" })[u]));
  const number = run[name];
  return { "<": number < value, ">": number > value, "<=": number <= value, ">=": number >= value, "=": number === value }[sign];
}

function row(run) {
  const tick = make("input", { type: "checkbox", "aria-label": `Use ${run.run}`, checked: !unticked.has(run.row), "data-row": run.row });
  tick.addEventListener("change", () => {
    if (tick.checked) unticked.delete(run.row);
    else unticked.add(run.row);
    find("#tick-all").hidden = !unticked.size;
    leaveOut();
  });
  const element = make("tr", {}, make("td", {}, tick), COLUMNS.map(([name, , form]) => make("td", {}, form ? form(run[name]) : residual(run))));
  element.addEventListener("focusin", () => showCurve(run, 0));
  element.addEventListener("pointerenter", () => showCurve(run));
  element.addEventListener("pointerleave", () => clearTimeout(timer));
  return element;
}

/** Show the training curve of a run once the pointer rests on it; nothing of a run that has none. */
function showCurve(run, wait = HOVER_MS) {
  clearTimeout(timer);
  if (!run) {
    training.cancel();
    shown = null;
    drawCurve();
    return;
  }
  timer = setTimeout(() => training.run(async (signal) => {
    const none = (error) => {
      signal.throwIfAborted();
      if (!(error instanceof ServiceError)) throw error;
      return { tokens: [] };
    };
    const curve = curves.get(run.row) ?? await getDocument("v1/training", { ...source(), row: run.row }, { signal }).catch(none);
    shown = curve.tokens.length > 1 ? run : null;
    if (shown) curves.set(run.row, curve); // one that is not there may come
    drawCurve();
  }), wait);
}

/** Draw the curve that is shown, in the present colours. */
export function drawCurve(colours = palette()) {
  find("#figure-training").hidden = !shown;
  if (!shown || !find("#table-runs").open) return;
  const curve = curves.get(shown.row);
  find("#training-run").textContent = shown.run;
  find("#training-words").textContent = `Training loss ${four(curve.loss[0])} at ${short(curve.tokens[0])} tokens, ${four(curve.loss.at(-1))} at ${short(curve.tokens.at(-1))}.`;
  trainingChart(shown, curve, unit, colours);
}

/** Ask for the law without the runs that are unticked, at the budget of the answer. */
async function leaveOut() {
  fault(find("#without-fault"), unticked.size > MOST_LEFT_OUT ? `At most ${MOST_LEFT_OUT} runs can be left out at a time.` : null);
  find("#without").replaceChildren();
  drawn(null);
  if (!unticked.size || unticked.size > MOST_LEFT_OUT) {
    request.cancel();
    return;
  }
  find("#without").textContent = "Fitting without them …";
  await request.run(async (signal) => {
    try {
      const query = new URLSearchParams([...Object.entries(source()), ...[...unticked].map((r) => ["row", r])]);
      const flops = answered()?.flops.value;
      if (flops > 0) query.append("flops", String(flops));
      const document = await getDocument(`v1/without?${query}`, {}, { signal });
      find("#without").replaceChildren(...words(document));
      drawn({ ...document, source: `without ${document.rows.length} run${document.rows.length === 1 ? "" : "s"}` });
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof ServiceError)) throw error;
      find("#without").replaceChildren();
      fault(find("#without-fault"), pageWords(error.message));
    }
  });
}

function words({ all, left, at, rows, warnings, runs_used: used }) {
  const share = (name) => percent(Number((left[name] / all[name] - 1).toPrecision(2))).replace(/^-/, "−");
  const moved = (name, form) => [make("b", {}, make("data", { value: String(left[name]), "data-name": `left-${name}` }, form(left[name]))), ` (${left[name] < all[name] ? "" : "+"}${share(name)})`];
  return [
    `Without ${rows.length} of ${used + rows.length} runs, at ${power(at)} FLOP: N* ${short(all.params)} becomes `, ...moved("params", short),
    `, D* ${short(all.tokens)} becomes `, ...moved("tokens", short), `, loss ${four(all.loss)} becomes `, make("b", {}, four(left.loss)),
    ". By the law of the runs fitted again exactly; the forecast above, which its prior holds, moves less.",
    ...warnings.map((w) => ` But ${pageWords(w.message)}`),
  ];
}
