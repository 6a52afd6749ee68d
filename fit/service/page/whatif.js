/* global Plot, d3 */
// What another model would reach: contours of loss over N and D, and the prediction of a chosen point.

import { getDocument, Newest, refused, ServiceError, verdictOf } from "./api.js";
import { counts, drawChart, plain, setLegend } from "./charts.js";
import { fault, find, make } from "./elements.js";
import { change, ends, four, percent, power, short, three, typed } from "./format.js";
import { label, pageWords } from "./limits.js";
import { askedFields, saveToAddress, source, state } from "./state.js";

const LEVELS = 12;
/** Wait for the slider to rest: a chart costs the service as much as twenty answers. */
const REST_MS = 200;
const requests = { contours: new Newest(), point: new Newest() };
let contours = null;
let point = null;
let timer = 0;

/** Fetch the contours around the present question; nothing is drawn of what has no answer. */
export function loadContours(answer, colours) {
  clearTimeout(timer);
  requests.contours.cancel();
  if (!answer || refused(verdictOf(answer))) {
    contours = point = null;
    requests.point.cancel();
    drawContours(colours());
    return;
  }
  timer = setTimeout(() => requests.contours.run(async (signal) => {
    try {
      contours = await getDocument("v1/contours", { ...source(), ...askedFields() }, { signal });
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof ServiceError)) throw error;
      contours = null;
    }
    drawContours(colours());
    predictPoint(colours);
  }), REST_MS);
}

/** The numbers that the chart draws. */
export function contourRows() {
  const { params, tokens, loss } = contours;
  return [["params", "tokens", "loss"], tokens.flatMap((d, i) => params.map((n, j) => [n, d, loss[i][j]]))];
}

/** Listen to the chart and to its two fields. */
export function listenToContours(colours) {
  find("#what-if").addEventListener("submit", (event) => {
    event.preventDefault();
    choose([find("#what-params").value, find("#what-tokens").value], colours);
  });
  find("#figure-contours .plot").addEventListener("click", (event) => {
    const chart = find("#figure-contours svg.chart");
    if (!chart) return;
    const box = chart.getBoundingClientRect();
    const scale = Number(chart.getAttribute("width")) / box.width;
    const [n, d] = [chart.scale("x").invert((event.clientX - box.left) * scale), chart.scale("y").invert((event.clientY - box.top) * scale)];
    if (n > 0 && d > 0) choose([typed(n), typed(d)], colours);
  });
}

function choose([params, tokens], colours) {
  state.at = params.trim() && tokens.trim() ? `${params.trim()},${tokens.trim()}` : null;
  saveToAddress(true);
  predictPoint(colours);
}

/** Ask for the loss of the chosen point, and of the best split of what it costs. */
async function predictPoint(colours) {
  const [params = "", tokens = ""] = state.at?.split(",") ?? [];
  [find("#what-params").value, find("#what-tokens").value] = [params, tokens];
  fault(find("#what-fault"), null);
  point = null;
  if (!params || !contours) {
    find("#what-words").replaceChildren();
    requests.point.cancel();
    drawContours(colours());
    return;
  }
  await requests.point.run(async (signal) => {
    try {
      const held = state.fields.unique_tokens ? { unique_tokens: state.fields.unique_tokens } : {};
      const predicted = await getDocument("v1/predict", { ...source(), params, tokens, ...held }, { signal });
      const best = await getDocument("v1/query", { ...source(), flops: typed(predicted.flops), ...held }, { signal }).catch((error) => {
        signal.throwIfAborted();
        if (!(error instanceof ServiceError)) throw error;
        return null;
      });
      point = { params: predicted.params, tokens: predicted.tokens };
      find("#what-words").replaceChildren(...pointWords(predicted, best));
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof ServiceError)) throw error;
      find("#what-words").replaceChildren();
      fault(find("#what-fault"), pageWords(error.message));
    }
    drawContours(colours());
  });
}

function pointWords(predicted, best) {
  const loss = predicted.loss;
  const level = predicted.level == null ? "" : `, ${percent(predicted.level)} confidence`;
  const share = contours ? predicted.flops / contours.budget.flops : null;
  return [
    make("b", { class: `tone ${predicted.verdict}` }, predicted.verdict), ` ${short(predicted.params)} parameters on ${short(predicted.tokens)} tokens: loss `,
    make("b", {}, four(loss.value)), `${ends(loss, four)} ${contours?.loss_unit ?? ""}${level}. `,
    `It costs ${power(predicted.flops)} FLOP${share ? `, ×${three(share)} the budget` : ""}. `,
    best ? `The best split of that compute, ${short(best.params.value)} on ${short(best.tokens.value)}, reaches ${four(best.loss.value)}: ${change({ value: loss.value - best.loss.value }, four)}.` : "",
  ];
}

/** Levels of loss at which lines are drawn: as many points of the grid lie between any two. */
function levels(values) {
  const sorted = values.filter((v) => v > 0).toSorted((a, b) => a - b);
  const picked = d3.range(1, LEVELS + 1).map((i) => Number(d3.quantileSorted(sorted, i / (LEVELS + 1.5)).toPrecision(4)));
  return [...new Set(picked)];
}

/** Lines of equal loss in parameters and tokens, broken at the edges of the grid; both axes are logarithmic. */
function lines(contours, levelsDrawn) {
  const [w, h] = [contours.params.length, contours.tokens.length];
  const value = (axis, at) => {
    const i = Math.min(Math.max(at - 0.5, 0), axis.length - 1.000001);
    const [from, to] = [Math.log(axis[Math.floor(i)]), Math.log(axis[Math.floor(i) + 1])];
    return Math.exp(from + (i % 1) * (to - from));
  };
  const outside = ([i, j]) => i <= 0.5 || j <= 0.5 || i >= w - 0.5 || j >= h - 0.5;
  // Loss falls towards many parameters and tokens: the rings of a level surround what is above it.
  return d3.contours().size([w, h]).thresholds(levelsDrawn)(contours.loss.flat().map((v) => v ?? NaN)).flatMap(({ value: level, coordinates }) =>
    coordinates.flat().flatMap((ring, k) => ring.map((p) => (outside(p)
      ? { n: NaN, d: NaN, level, line: `${level} ${k}` }
      : { n: value(contours.params, p[0]), d: value(contours.tokens, p[1]), level, line: `${level} ${k}` }))));
}

/** Where the lines meet the right or the upper edge, for their labels. */
function labels({ params, tokens, loss }, levelsDrawn) {
  const edge = params.length - 2;
  const right = loss.map((row, i) => ({ at: row[edge], n: params[edge], d: tokens[i] }));
  const top = loss[tokens.length - 2].map((at, j) => ({ at, n: params[j], d: tokens[tokens.length - 2] }));
  const meets = (line, level) => {
    const i = line.findIndex((p, k) => k && (p.at - level) * (line[k - 1].at - level) <= 0);
    if (i < 0) return null;
    const [from, to] = [line[i - 1], line[i]];
    const share = to.at === from.at ? 0 : (level - from.at) / (to.at - from.at);
    return { n: from.n * (to.n / from.n) ** share, d: from.d * (to.d / from.d) ** share };
  };
  const placed = [];
  // Room of a label, about 45 by 15 pixels, on the logarithmic axes.
  const wide = Math.log(params.at(-1) / params[0]) * (45 / Math.max(200, find("#figure-contours .plot").clientWidth - 84));
  const high = Math.log(tokens.at(-1) / tokens[0]) * 0.045;
  for (const level of levelsDrawn) {
    const place = meets(right, level) ?? meets(top, level);
    const near = (p) => Math.abs(Math.log(p.n / place.n)) < wide && Math.abs(Math.log(p.d / place.d)) < high;
    if (place && !placed.some(near)) placed.push({ ...place, level });
  }
  return placed;
}

/** The part of the chart that each limit excludes. */
function excluded({ params, tokens, limits }, colours) {
  const [left, right, bottom, top] = [params[0], params.at(-1), tokens[0], tokens.at(-1)];
  const fill = { fill: colours.ink, fillOpacity: 0.1, clip: true };
  const edge = { stroke: colours.ink, strokeWidth: 1.6, strokeDasharray: "6 3", clip: true };
  const marks = [];
  for (const limit of limits) {
    for (const [end, low] of [[limit.low, true], [limit.high, false]]) {
      if (end == null) continue;
      if (limit.on === "params") {
        marks.push(Plot.rect([0], { x1: low ? left : Math.max(end, left), x2: low ? Math.min(end, right) : right, y1: bottom, y2: top, ...fill }), Plot.ruleX([end], edge));
      } else if (limit.on === "tokens") {
        marks.push(Plot.rect([0], { x1: left, x2: right, y1: low ? bottom : Math.max(end, bottom), y2: low ? Math.min(end, top) : top, ...fill }), Plot.ruleY([end], edge));
      } else {
        const line = [left, right].map((n) => ({ n, d: end * n, edge: low ? bottom / 1e6 : top * 1e6 }));
        marks.push(Plot.areaY(line, { x: "n", y1: "d", y2: "edge", ...fill }), Plot.line(line, { x: "n", y: "d", ...edge }));
      }
    }
  }
  return marks;
}

const zip = ({ params, tokens }) => params.map((n, i) => ({ n, d: tokens[i] }));

/** Draw the contours, the line of equal compute, the path of best splits, limits, runs and the answer. */
export function drawContours(colours, runs = drawContours.runs ?? []) {
  drawContours.runs = runs;
  find("#figure-contours").hidden = !contours;
  if (contours) contoursChart(contours, runs, colours, point);
}

/** The chart of a document of contours, with the runs and a chosen point. */
export function contoursChart(contours, runs, colours, point = null) {
  const [x, y] = [contours.params, contours.tokens];
  const domain = (axis) => [axis[0], axis.at(-1)];
  const values = contours.loss.flat();
  const drawn = levels(values);
  const axis = (values, words, room) => ({ domain: domain(values), label: words, ticks: (size) => counts(domain(values), size / room), text: plain });
  drawChart("figure-contours", "Loss over parameters and tokens: lines of equal loss, the budget, limits and the answer", innerWidth < 640 ? 340 : 400, colours,
    axis(x, "Parameters N", 44), axis(y, "Training tokens D", 32), [
      Plot.line(lines(contours, drawn), { x: "n", y: "d", z: "line", stroke: "level", strokeWidth: 1.3, clip: true }),
      ...excluded(contours, colours),
      Plot.line(zip(contours.path), { x: "n", y: "d", stroke: colours.law, strokeWidth: 1.6, strokeDasharray: "5 4", clip: true }),
      Plot.line(zip(contours.budget), { x: "n", y: "d", stroke: colours.accent, strokeWidth: 1.8, clip: true }),
      Plot.dot(runs, { x: "params", y: "tokens", r: 2.4, fill: colours.soft, clip: true }),
      Plot.text(labels(contours, drawn), { x: "n", y: "d", text: (l) => four(l.level), fill: colours.ink, stroke: colours.paper, strokeWidth: 7, fontSize: 11, textAnchor: "end" }),
      Plot.dot([contours.answer], { x: "params", y: "tokens", r: 5.5, fill: colours.accent, stroke: colours.paper, strokeWidth: 1.5 }),
      point ? Plot.dot([point], { x: "params", y: "tokens", symbol: "times", r: 6, stroke: colours.ink, strokeWidth: 2.4 }) : null,
    ], 18, { color: { type: "linear", domain: d3.extent(drawn), interpolate: (t) => colours.shade(1 - t) } });
  setLegend("figure-contours", [
    ["level", `equal loss [${contours.loss_unit}]`], ["answer-line", `${power(contours.budget.flops)} FLOP`], ["dash", "best split of each budget"],
    runs.length ? ["plain", "runs"] : null, ["answer", "your answer"],
    contours.limits.length ? ["excluded", `excluded: ${contours.limits.map((l) => label(l.name)).join(", ")}`] : null,
    point ? ["point", "what if"] : null,
  ]);
}
