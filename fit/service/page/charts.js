/* global Plot, d3 */
// The charts: points are runs, lines the law, bands its interval, dashes extrapolation.

import { find, make } from "./elements.js";
import { ends, four, percent, power, short, tick } from "./format.js";
import { residual } from "./tables.js";

/** Of training curves; a fit may be of another loss. */
const TRAINED_UNIT = "nats/token";
const WORDS = { params: "Best parameters N*", tokens: "Best training tokens D*" };

/** Colours of the present theme, from the style sheet. */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["paper", "ink", "soft", "rule", "law", "accent", "rival"];
  const dark = colour("scheme") === "dark";
  return {
    ...Object.fromEntries(names.map((n) => [n, colour(n)])),
    shade: (t) => d3.interpolateViridis(dark ? 0.28 + 0.72 * t : 0.86 * t),
  };
}

/** The colour of a budget, on one scale over the runs. */
function shades(runs, colours) {
  const [low, high] = d3.extent(runs, (r) => Math.log(r.flops));
  return (flops) => colours.shade(high > low ? (Math.log(flops) - low) / (high - low) : 0.5);
}

/** Powers of ten, no more than fit. */
function decades([low, high], most) {
  const ends = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  const step = Math.max(1, Math.ceil((ends[1] - ends[0] + 1) / most));
  return d3.range(ends[0], ends[1] + 1, step).map((e) => Number(`1e${e}`));
}

/** Plain ticks for counts: 1, 2, 5 of each decade where few, else decades. */
export function counts([low, high], most) {
  if (Math.log10(high / low) * 3 > most) return decades([low, high], most);
  const all = d3.range(Math.floor(Math.log10(low)), Math.ceil(Math.log10(high)) + 1)
    .flatMap((e) => [1, 2, 5].map((m) => Number(`${m}e${e}`)));
  return all.filter((v) => v >= low && v <= high);
}

/** A count on an axis: 10k, 2M. */
export const plain = (value) => short(value).replace(/\.0+(?=[kMBT]|$)/, "");

/** Each kind of axis: its domain, its label, its ticks and how they read. */
const axes = {
  flops: (domain) => ({ domain, label: "Compute C [FLOP]", ticks: (room) => decades(domain, room / 70), text: tick }),
  counts: (domain, label, size = 32) => ({ domain, label, ticks: (room) => counts(domain, room / size), text: plain }),
  loss: (domain, unit) => {
    const ticks = d3.ticks(...domain, 6);
    const digits = Math.max(1, Math.ceil(-Math.log10(ticks.length > 1 ? ticks[1] - ticks[0] : 0.1) - 1e-9));
    return { domain, label: `Loss [${unit}]`, ticks: () => ticks, text: (v) => v.toFixed(digits) };
  },
};

/** Draw a chart into a figure, replacing the one before. */
export function drawChart(id, words, height, colours, x, y, marks, marginRight = 18, scales = {}) {
  const place = find(`#${id} .plot`);
  const width = Math.max(280, place.clientWidth);
  const [across, up] = [x.ticks(width), y.ticks(height)];
  const axis = { labelAnchor: "center", labelArrow: "none", tickSize: 4 };
  const scale = (a) => ({ type: "log", domain: a.domain, axis: null, label: null });
  const grid = { stroke: colours.rule, strokeOpacity: 1 };
  const chart = Plot.plot({
    width,
    height,
    className: "chart",
    ariaLabel: words,
    marginLeft: 66,
    marginRight,
    marginTop: 14,
    marginBottom: 46,
    style: { background: "transparent", color: colours.ink, fontSize: "12.5px", overflow: "visible" },
    x: scale(x),
    y: scale(y),
    ...scales,
    marks: [
      Plot.gridX(across, grid),
      Plot.gridY(up, grid),
      Plot.axisX(across, { ...axis, text: x.text, label: x.label, labelOffset: 40 }),
      Plot.axisY(up, { ...axis, text: y.text, label: y.label, labelOffset: 58 }),
      ...marks,
    ],
  });
  chart.setAttribute("role", "img");
  for (const mark of chart.querySelectorAll("g[aria-label]")) mark.setAttribute("role", "group"); // a label needs a role
  place.replaceChildren(chart);
}

/** The points of a frontier that a chart shows. */
function points(curves, name, domain) {
  const { value, low, high } = curves[name];
  return curves.flops
    .map((flops, i) => ({ flops, inside: curves.inside[i], value: value[i], low: low[i], high: high[i] }))
    .filter((p) => p.value > 0 && p.flops >= domain[0] / 4 && p.flops <= domain[1] * 4);
}

/** Line and band of one law: solid inside its runs, dashed beyond. */
function frontier(rows, colour, domain) {
  const first = rows.findIndex((p) => p.inside);
  const last = rows.findLastIndex((p) => p.inside);
  const parts = first < 0
    ? [[rows, "5 4"]]
    : [[rows.slice(0, first + 1), "5 4"], [rows.slice(first, last + 1), null], [rows.slice(last), "5 4"]];
  const bounded = rows.filter((p) => p.low > 0 && p.high > 0)
    .map((p) => ({ ...p, low: Math.max(p.low, domain[0] / 10), high: Math.min(p.high, domain[1] * 10) }));
  return [
    Plot.areaY(bounded, { x: "flops", y1: "low", y2: "high", fill: colour, fillOpacity: 0.18, clip: true }),
    ...parts.map(([part, dash]) =>
      Plot.lineY(part, { x: "flops", y: "value", stroke: colour, strokeWidth: 2, strokeDasharray: dash, clip: true })),
  ];
}

/** The answer on a chart against training compute, without that of serving, and its interval. */
function mark(answer, name, colours) {
  const at = { flops: (answer.cost?.training_flops ?? answer.flops).value, ...answer[name] };
  if (!(at.flops > 0 && at.value > 0)) return [];
  return [
    Plot.ruleX([at], { x: "flops", stroke: colours.accent, strokeOpacity: 0.55, strokeDasharray: "2 3" }),
    ...(at.low > 0 && at.high > 0 ? [Plot.ruleX([at], { x: "flops", y1: "low", y2: "high", stroke: colours.accent, strokeWidth: 2.5, clip: true })] : []),
    Plot.dot([at], { x: "flops", y: "value", r: 5.5, fill: colours.accent, stroke: colours.paper, strokeWidth: 1.5 }),
  ];
}

/** The runs as points. */
function dots(runs, x, y, shade, colours) {
  return Plot.dot(runs, { x, y, r: 3.2, fill: (r) => shade(r.flops), stroke: colours.paper, strokeWidth: 0.6, clip: true });
}

/** The tip at the pointer: the nearest run, or the law. */
function tip(rows, x, y, colours) {
  return Plot.tip(rows, Plot.pointer({
    x, y, title: "words", maxRadius: 28, fill: colours.paper, stroke: colours.rule, textPadding: 10, fontSize: 12.5, lineHeight: 1.35,
  }));
}

/** Text of the tip of a run. */
function runText(run) {
  return `${run.run.slice(0, 60)}\nN ${short(run.params)}, D ${short(run.tokens)}, C ${power(run.flops)} FLOP\n` +
    `loss ${four(run.loss)}${run.residual == null ? ", not in the fit" : `, ${residual(run)} off the law`}`;
}

/** Range of budgets to show: that of the runs and the question, with a margin. */
export function reach(curves, answer) {
  const span = curves.range.flops ?? [curves.flops[curves.inside.indexOf(true)], curves.flops[curves.inside.lastIndexOf(true)]];
  const budget = answer?.flops.value > 0 ? answer.flops.value : span[1];
  return [Math.min(span[0], budget) / 1.8, Math.max(span[1] * 12, budget * 2.5)];
}

/** Extent with some room on a log axis. */
function around(values, room) {
  const [low = 1, high = 10] = d3.extent(values.filter((v) => v > 0));
  const more = Math.max(Math.log(high / low) * room, 1e-3);
  return [low * Math.exp(-more), high * Math.exp(more)];
}

/** Loss against compute: runs, frontier, another law where one is compared, runs that ended since the fit. */
export function lossChart(curves, answer, rival, colours, since = []) {
  const fresh = curves.loss_unit === TRAINED_UNIT ? since : [];
  const x = reach(curves, answer);
  const rows = points(curves, "loss", x);
  const other = rival ? points(rival, "loss", x) : [];
  const shown = [...rows, ...other].filter((p) => p.flops >= x[0] && p.flops <= x[1]).map((p) => p.value);
  const y = around([...shown, ...[...curves.runs, ...fresh].map((r) => r.loss), ...(answer ? [answer.loss.value] : [])], 0.06);
  const shade = shades(curves.runs, colours);
  const near = [
    ...[...curves.runs, ...fresh].map((r) => ({ flops: r.flops, y: r.loss, words: runText(r) })),
    ...rows.map((p) => ({ flops: p.flops, y: p.value, words: `law at ${power(p.flops)} FLOP\nloss ${four(p.value)}${ends(p, four)}` })),
  ];
  drawChart("figure-loss", "Loss against compute: runs, frontier with its band, your budget", innerWidth < 640 ? 320 : 400, colours,
    axes.flops(x), axes.loss(y, curves.loss_unit), [
      curves.floor && curves.floor > y[0] ? Plot.ruleY([curves.floor], { stroke: colours.soft, strokeDasharray: "1 3" }) : null,
      ...(rival ? frontier(other, colours.rival, y) : []),
      ...frontier(rows, colours.law, y),
      dots(curves.runs, "flops", "loss", shade, colours),
      Plot.dot(fresh, { x: "flops", y: "loss", r: 4.2, stroke: colours.accent, strokeWidth: 1.8, clip: true }),
      ...(answer ? mark(answer, "loss", colours) : []),
      tip(near, "flops", "y", colours),
    ]);
  legend("figure-loss", curves, { answer, rival, fresh });
}

/** The best size, or the best length, against compute. */
export function optimumChart(name, curves, answer, rival, colours) {
  const x = reach(curves, answer);
  const rows = points(curves, name, x);
  const other = rival ? points(rival, name, x) : [];
  const shown = rows.filter((p) => p.flops >= x[0] && p.flops <= x[1]).map((p) => p.value);
  const y = around([...shown, ...curves.runs.map((r) => r[name]), ...(answer ? [answer[name].value] : [])], 0.05);
  const near = [
    ...curves.runs.map((r) => ({ flops: r.flops, y: r[name], words: runText(r) })),
    ...rows.map((p) => ({ flops: p.flops, y: p.value, words: `best at ${power(p.flops)} FLOP\n${short(p.value)} ${name === "params" ? "parameters" : "tokens"}${ends(p, short)}` })),
  ];
  drawChart(`figure-${name}`, `${WORDS[name]} against compute`, 320, colours,
    axes.flops(x), axes.counts(y, WORDS[name]), [
      ...(rival ? frontier(other, colours.rival, y) : []),
      ...frontier(rows, colours.law, y),
      dots(curves.runs, "flops", name, shades(curves.runs, colours), colours),
      ...(answer ? mark(answer, name, colours) : []),
      tip(near, "flops", "y", colours),
    ]);
  legend(`figure-${name}`, curves, { answer, rival });
}

/** Loss against size at equal budgets. */
export function valleyChart(curves, colours) {
  find("#figure-valleys").hidden = !curves.valleys.length;
  if (!curves.valleys.length) return;
  const [small, large] = curves.range.params;
  const x = [small / 2, large * 2.1];
  const y = around(curves.runs.map((r) => r.loss), 0.12);
  const shade = shades(curves.runs, colours);
  const lines = curves.valleys.flatMap((v) => v.params.map((n, i) => ({ n, loss: v.loss[i], flops: v.flops })));
  const within = lines.filter((p) => p.n >= small && p.n <= large);
  const labels = curves.valleys.map((v) => ({ n: v.params.at(-1), loss: v.loss.at(-1), flops: v.flops }));
  const stroke = (p) => shade(p.flops);
  drawChart("figure-valleys", "Loss against parameters at equal budgets: the lowest point of each curve is the best size", innerWidth < 640 ? 320 : 400, colours,
    axes.counts(x, "Parameters N", 56), axes.loss(y, curves.loss_unit), [
      Plot.line(lines, { x: "n", y: "loss", z: "flops", stroke, strokeDasharray: "4 4", clip: true }),
      Plot.line(within, { x: "n", y: "loss", z: "flops", stroke, strokeWidth: 1.8, clip: true }),
      Plot.text(labels.filter((l) => l.loss < y[1]), { x: "n", y: "loss", text: (l) => `${power(l.flops)} FLOP`, textAnchor: "start", dx: 5, fill: colours.soft, fontSize: 11.5 }),
      dots(curves.runs, "params", "loss", shade, colours),
      Plot.dot(curves.valleys.map((v) => v.best), { x: "params", y: "loss", symbol: "diamond", r: 4.6, fill: colours.paper, stroke: colours.ink, strokeWidth: 1.4, clip: true }),
      tip(curves.runs.map((r) => ({ x: r.params, y: r.loss, words: runText(r) })), "x", "y", colours),
    ], 84);
  legend("figure-valleys", curves, { valleys: true });
}

/** The training curve of one run, and the held-out loss at its end where that is of the same unit. */
export function trainingChart(run, curve, unit, colours) {
  const rows = curve.tokens.map((tokens, i) => ({ tokens, loss: curve.loss[i] }));
  const end = unit === TRAINED_UNIT ? [run] : [];
  const values = [...rows, ...end].map((p) => p.loss).filter((v) => v > 0);
  drawChart("figure-training", `Training loss against tokens of ${run.run}`, 260, colours,
    axes.counts([rows[0].tokens, Math.max(rows.at(-1).tokens, run.tokens) * 1.15], "Tokens", 48), axes.loss(around(values, 0.05), TRAINED_UNIT), [
      Plot.line(rows, { x: "tokens", y: "loss", stroke: colours.law, strokeWidth: 1.8, clip: true }),
      Plot.dot(end, { x: "tokens", y: "loss", r: 4.5, fill: colours.accent, stroke: colours.paper, strokeWidth: 1.2 }),
      tip(rows.map((p) => ({ ...p, words: `${short(p.tokens)} tokens\nloss ${four(p.loss)}` })), "tokens", "loss", colours),
    ]);
  setLegend("figure-training", [["law", "training"], end.length ? ["answer", "held out, at the end"] : null]);
}

/** The legend of a chart. */
function legend(id, curves, { answer, rival, valleys, fresh = [] }) {
  const level = curves.level == null ? null : `${percent(curves.level)} confidence`;
  const keys = [
    curves.runs.length ? ["run", valleys ? "runs, colour by compute" : "runs"] : null,
    fresh.length ? ["fresh", "runs since the fit"] : null,
    ["law", valleys ? "law at one budget" : rival ? `law (${curves.source})` : "law"],
    ["dash", valleys ? "beyond the fitted sizes" : "extrapolation"],
    level && !valleys ? ["band", level] : null,
    valleys ? ["best", "best size at each budget"] : null,
    rival ? ["rival", rival.source] : null,
    answer ? ["answer", "your answer"] : null,
  ];
  setLegend(id, keys);
}

/** Put keys into a legend: each the class of its mark and what it means. */
export function setLegend(id, keys) {
  find(`#${id} .legend`).replaceChildren(
    ...keys.filter(Boolean).map(([kind, words]) => make("span", { class: "key" }, make("i", { class: kind }), words)),
  );
}
