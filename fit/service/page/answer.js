// Show an answer: sentence, table, notes, limits that bind, and the command that launches it.

import { refused, verdictOf } from "./api.js";
import { datum, fault, find, make, sentenceCase, table } from "./elements.js";
import { amount, change, ends, four, percent, power, short, three, UNKNOWN, whole } from "./format.js";
import { label, pageWords } from "./limits.js";

/** Show all parts of an answer; of none, or of one that is refused, `instead` and nothing of another. */
export function show(answer, instead = "No answer to this question", verdict = verdictOf(answer)) {
  showVerdict(verdict);
  const given = answer && !refused(verdict) ? answer : null;
  find("#words").replaceChildren(...(given ? sentence(given) : [instead]));
  find("#basis").textContent = given ? basis(given) : "";
  find("#facts").replaceChildren(...(given ? facts(given) : []).map(([name, value, more]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, make("b", {}, value), make("span", { class: "more" }, more ?? "")))));
  const [first, ...others] = warningsOf(answer, verdict);
  showFirst(first, others.length);
  find("#notes").replaceChildren(...others.map((w) => make("li", { class: w.severity }, ...note(w))));
  binding(given);
  launch(given);
}

const RANK = ["serious", "warning", "info"];

/** What an answer warns of, the gravest first, without what the verdict says already; a mere remark stays below. */
function warningsOf(answer, verdict) {
  const reason = verdict?.reason.endsWith(".") ? verdict.reason : "";
  const warnings = (answer?.warnings ?? []).filter((w) => w.message !== verdict?.reason)
    .map((w) => (w.message.startsWith(`${reason} `) ? { ...w, message: w.message.slice(reason.length + 1) } : w))
    .toSorted((a, b) => RANK.indexOf(a.severity) - RANK.indexOf(b.severity));
  return warnings[0]?.severity === "info" ? [null, ...warnings] : warnings;
}

function note(warning) {
  return [make("b", {}, warning.severity), " ", sentenceCase(pageWords(warning.message))];
}

/** The gravest warning beside the headline, and how many more there are. */
function showFirst(warning, more) {
  const place = find("#warning");
  place.hidden = !warning;
  place.className = `first ${warning?.severity ?? ""}`;
  const link = more && warning ? [" ", make("a", { href: "#notes" }, `${more} more`)] : [];
  place.replaceChildren(...(warning ? [...note(warning), ...link] : []));
}

const SIGNS = { trust: "✓", careful: "!", refuse: "✕" };

/** The verdict, first of all: one word, one sentence. */
export function showVerdict(verdict) {
  find("#answer").className = verdict?.verdict ?? "";
  const place = find("#verdict");
  place.hidden = !verdict;
  place.className = `verdict ${verdict?.verdict ?? ""}`;
  place.replaceChildren(...(verdict ? [
    make("b", {}, make("i", { "aria-hidden": "true" }, SIGNS[verdict.verdict] ?? "?"), verdict.verdict), " ", make("span", {}, sentenceCase(pageWords(verdict.reason))),
  ] : []));
}

function sentence(answer) {
  return [
    "Train ", strong(answer.params, "params", short, " parameters"), " on ",
    strong(answer.tokens, "tokens", short, " tokens"), ": ",
    make("span", { class: "second" }, "loss ", strong(answer.loss, "loss", four, ""), interval(answer.loss, four)),
  ];
}

/** The answer as a sentence for screen readers. */
export function spoken(answer) {
  const said = verdictOf(answer);
  const verdict = said ? `${said.verdict}: ${said.reason} ` : "";
  if (refused(said)) return verdict.trim();
  const range = answer.loss.low == null || answer.loss.high == null ? "" : `, ${four(answer.loss.low)} to ${four(answer.loss.high)}`;
  return `${verdict}Train ${short(answer.params.value)} parameters on ${short(answer.tokens.value)} tokens: ` +
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

function basis(answer) {
  const { params, flops } = answer.convention;
  const text = `${power(answer.flops.value)} FLOP, by ${answer.source} (${answer.law}; N ${params ?? "?"}, C ${flops ?? "?"}).`;
  if (answer.reach == null) return text;
  const codes = answer.warnings.map((w) => w.code);
  const beyond = answer.reach > 1 || codes.includes("extrapolates_far");
  const where = codes.includes("below_range") ? "below the smallest" : beyond ? "extrapolates" : "inside the range of the runs";
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
  if (answer.level != null && answer.loss.low == null && answer.loss.high == null) rows.push(["Interval", UNKNOWN, "this fit has none here"]);
  if (answer.loss_next_run.low != null || answer.loss_next_run.high != null) {
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
    ["Shape", `${whole(s.width)} wide, ${whole(s.depth)} deep, ${whole(s.heads)} head${s.heads === 1 ? "" : "s"}`, own],
    ...(answer.lr == null ? [] : [["Learning rate", three(answer.lr), "peak of the hidden matrices"]]),
    ...(answer.batch_tokens == null ? [] : [["Batch", String(answer.batch_tokens), "tokens a step at the end"]]),
  ];
}

/** Rows of the cost, if the question asks for it. */
function bill(cost) {
  if (!cost) return [];
  const rows = [["Training", `${power(cost.training_flops.value)} FLOP`, interval(cost.training_flops, power)]];
  if (cost.serving_flops) rows.push(["Serving", `${power(cost.serving_flops.value)} FLOP`, interval(cost.serving_flops, power)]);
  const of = cost.device ? ` of ${cost.device}${cost.mfu == null ? "" : ` at ${percent(cost.mfu)} of its peak`}` : "";
  if (cost.device_hours) rows.push(["Device-hours", amount(cost.device_hours.value), make("span", {}, interval(cost.device_hours, amount), of)]);
  if (cost.hours) rows.push(["Hours", amount(cost.hours.value), make("span", {}, interval(cost.hours, amount), cost.devices ? ` on ${cost.devices} devices` : "")]);
  if (cost.dollars) rows.push(["Dollars", `$${amount(cost.dollars.value)}`, interval(cost.dollars, amount)]);
  return rows;
}

/** Limits that bind, what relaxing them gains, and what other sizes cost. */
function binding(answer) {
  const place = find("#binding");
  const bound = (answer?.constraints ?? []).filter((c) => c.binds && c.worth);
  const sizes = answer?.regret ?? [];
  place.hidden = !bound.length && !sizes.length;
  const rows = bound.map((c) => [c.name === "budget" ? "Budget [FLOP]" : label(c.name), c.name === "budget" ? power(c.limit) : short(c.limit), gain(c.worth.lifted), gain(c.worth.doubled)]);
  const others = sizes.map((r) => [
    `×${three(r.size)}`, short(r.params), possible(r.loss_up, four), possible(r.compute_up, inPercent),
    change({ value: -r.serving_saved }, inPercent), r.break_even_tokens?.value == null ? "–" : `${short(r.break_even_tokens.value)} tokens`,
  ]);
  const heads = ["Limit", "value", "without it", "twice as wide"];
  const columns = ["Size", "N", "loss, same budget", "compute, same loss", "cost of serving", "pays off after"];
  place.replaceChildren(
    ...(bound.length ? [make("h2", {}, "Limits that bind"), scroll(table("Limits that bind", heads, rows))] : []),
    ...(sizes.length ? [make("h2", {}, "Other sizes"), scroll(table("Other sizes", columns, others))] : []),
  );
}

/** A share in three digits of a percent. */
function inPercent(share) {
  return percent(Number(share.toPrecision(3)));
}

/** A change with its sign and interval; null where no budget buys it. */
function possible(number, form) {
  return number.value == null ? "impossible" : change(number, form);
}

function scroll(content) {
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": content.caption.textContent }, content);
}

/** The gain of relaxing a limit: the document says how much the loss falls, the page how it changes. */
function gain(worth) {
  if (!worth) return "–";
  const times = worth.multiplier?.value == null ? "" : `, like ×${three(worth.multiplier.value)} the budget`;
  return `loss ${change(worth.loss, four, -1)}${times}`;
}

/** The command that launches it. */
export function command(answer) {
  return `python -m sweep ${answer.config.map(quoted).join(" ")}`;
}

function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`;
}

function launch(answer) {
  const config = answer?.config ?? [];
  find("#launch").hidden = !config.length;
  find("#command").textContent = config.length ? command(answer) : "";
  find("#get-config").hidden = !config.length;
  find("#get-json").hidden = !answer;
  const reason = answer && !config.length ? answer.launch_refusal : null;
  fault(find("#refusal"), reason && pageWords(reason));
}
