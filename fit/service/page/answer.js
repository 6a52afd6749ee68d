// Show an answer: sentence, table, notes, limits that bind, and the command that launches it.

import { datum, find, make, table } from "./elements.js";
import { four, percent, power, short, three } from "./format.js";
import { LABELS, pageWords } from "./limits.js";

/** Show all parts of an answer. */
export function show(answer) {
  find("#words").replaceChildren(
    "Train ", strong(answer.params, "params", short, " parameters"), " on ",
    strong(answer.tokens, "tokens", short, " tokens"), ": ",
    make("span", { class: "second" }, "loss ", strong(answer.loss, "loss", four, ""), interval(answer.loss, four)),
  );
  find("#basis").textContent = basis(answer);
  find("#facts").replaceChildren(...facts(answer).map(([label, value, more]) =>
    make("tr", {}, make("th", { scope: "row" }, label), make("td", {}, make("b", {}, value), make("span", { class: "more" }, more ?? "")))));
  find("#notes").replaceChildren(...answer.warnings
    .toSorted((a, b) => RANK.indexOf(a.severity) - RANK.indexOf(b.severity))
    .map((w) => make("li", { class: w.severity }, make("b", {}, w.severity), " ", pageWords(w.message))));
  binding(answer);
  launch(answer);
}

const RANK = ["serious", "warning", "info"];
const MONEY = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** The answer as a sentence for screen readers. */
export function spoken(answer) {
  const range = answer.loss.low == null ? "" : `, ${four(answer.loss.low)} to ${four(answer.loss.high)}`;
  return `Train ${short(answer.params.value)} parameters on ${short(answer.tokens.value)} tokens: ` +
    `loss ${four(answer.loss.value)}${range}.`;
}

function strong(number, name, form, unit) {
  return make("strong", {}, datum(number.value, form(number.value), name), unit);
}

/** An interval in brackets; nothing if it has no width, as for a fixed size. */
function interval(number, form) {
  const range = ends(number, form);
  return range && make("span", { class: "interval" }, range);
}

function ends({ value, low, high }, form) {
  if (low == null || high == null) return "";
  const words = [low, value, high].map(form);
  return new Set(words).size === 1 ? "" : ` [${words[0]}, ${words[2]}]`;
}

function basis(answer) {
  const { params, flops } = answer.convention;
  const text = `${power(answer.flops.value)} FLOP, by ${answer.source} (${answer.law}; N ${params}, C ${flops}).`;
  if (answer.reach == null) return text;
  const below = answer.warnings.some((w) => w.code === "below_range");
  const where = below ? "below the smallest" : answer.reach > 1 ? "extrapolates" : "inside the range of the runs";
  return `${text} ×${three(answer.reach)} the largest budget fitted: ${where}.`;
}

function facts(answer) {
  const level = answer.level == null ? "" : percent(answer.level);
  const rows = [
    ["Parameters N", datum(answer.params.value, short(answer.params.value), "params"), interval(answer.params, short)],
    ["Tokens D", datum(answer.tokens.value, short(answer.tokens.value), "tokens"), interval(answer.tokens, short)],
    ["Tokens per parameter", datum(answer.tokens_per_param.value, three(answer.tokens_per_param.value), "tokens_per_param"), interval(answer.tokens_per_param, three)],
    ["Loss", datum(answer.loss.value, four(answer.loss.value), "loss"), joined(interval(answer.loss, four), level && " confidence", level, answer)],
  ];
  if (answer.loss_next_run.low != null) {
    rows.push(["Loss of one run", four(answer.loss_next_run.value), joined(interval(answer.loss_next_run, four), " prediction", level, answer)]);
  }
  const band = answer.regret_band;
  if (band) rows.push(["Equally good sizes", `${short(band.low)} to ${short(band.high)}`, "parameters: loss within the noise of one run"]);
  if (answer.epochs != null) rows.push(["Epochs", three(answer.epochs), "of the unique tokens"]);
  return [...rows, ...shape(answer), ...bill(answer.cost)];
}

/** An interval with its level: [a, b] nats/token, 90% confidence. */
function joined(range, kind, level, answer) {
  const unit = answer.convention.loss ?? "nats/token";
  return range ? make("span", {}, range, ` ${unit}, ${level}${kind}`) : unit;
}

function shape(answer) {
  const s = answer.shape;
  if (!s) return [];
  const own = `${short(s.params)} parameters on ${short(s.tokens)} tokens`;
  return [
    ["Shape", `${s.width} wide, ${s.depth} deep, ${s.heads} heads`, own],
    ...(answer.lr == null ? [] : [["Learning rate", three(answer.lr), "peak of the hidden matrices"]]),
    ...(answer.batch_tokens == null ? [] : [["Batch", String(answer.batch_tokens), "tokens a step at the end"]]),
  ];
}

/** Rows of the cost, if the question asks for it. */
function bill(cost) {
  if (!cost) return [];
  const rows = [["Training", `${power(cost.training_flops.value)} FLOP`, interval(cost.training_flops, power)]];
  if (cost.serving_flops) rows.push(["Serving", `${power(cost.serving_flops.value)} FLOP`, interval(cost.serving_flops, power)]);
  if (cost.device_hours) rows.push(["Device-hours", short(cost.device_hours.value), cost.device ? `of ${cost.device} at ${percent(cost.mfu)} of its peak` : ""]);
  if (cost.hours) rows.push(["Hours", short(cost.hours.value), cost.devices ? `on ${cost.devices} devices` : ""]);
  if (cost.dollars) rows.push(["Dollars", `$${MONEY.format(cost.dollars.value)}`, ""]);
  return rows;
}

/** Limits that bind, what relaxing them gains, and what other sizes cost. */
function binding(answer) {
  const place = find("#binding");
  const bound = (answer.constraints ?? []).filter((c) => c.binds && c.worth);
  const sizes = answer.regret ?? [];
  place.hidden = !bound.length && !sizes.length;
  const rows = bound.map((c) => [LABELS[c.name]?.[0] ?? "Budget [FLOP]", c.name in LABELS ? short(c.limit) : power(c.limit), gain(c.worth.lifted), gain(c.worth.doubled)]);
  const others = sizes.map((r) => [
    `×${three(r.size)}`, short(r.params), signed(r.loss_up.value, four(Math.abs(r.loss_up.value))),
    r.compute_up.value == null ? "impossible" : share(r.compute_up.value),
    share(-r.serving_saved), r.break_even_tokens?.value == null ? "–" : `${short(r.break_even_tokens.value)} tokens`,
  ]);
  const heads = ["Limit", "value", "without it", "twice as wide"];
  const columns = ["Size", "N", "loss, same budget", "compute, same loss", "cost of serving", "pays off after"];
  place.replaceChildren(
    ...(bound.length ? [make("h2", {}, "Limits that bind"), scroll(table("Limits that bind", heads, rows))] : []),
    ...(sizes.length ? [make("h2", {}, "Other sizes"), scroll(table("Other sizes", columns, others))] : []),
  );
}

/** A difference with its sign. */
function signed(value, words) {
  return /[1-9]/.test(words) ? `${value < 0 ? "−" : "+"}${words}` : "0";
}

/** A change in percent. */
function share(value) {
  return signed(value, percent(Number(Math.abs(value).toPrecision(3))));
}

function scroll(content) {
  return make("div", { class: "scroll" }, content);
}

/** The gain of relaxing a limit. */
function gain(worth) {
  if (!worth) return "–";
  const { value } = worth.loss;
  const times = worth.multiplier?.value == null ? "" : `, like ×${three(worth.multiplier.value)} the budget`;
  return `loss ${signed(-value, four(Math.abs(value)))}${ends(worth.loss, four)}${times}`;
}

/** The command that launches it. */
export function command(answer) {
  return `python -m sweep ${answer.config.map(quoted).join(" ")}`;
}

function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`;
}

function launch(answer) {
  find("#launch").hidden = !answer.config.length;
  find("#command").textContent = answer.config.length ? command(answer) : "";
  find("#get-config").hidden = !answer.config.length;
}
