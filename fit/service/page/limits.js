// The form of the question: the budget in its units, and the limits.

import { find, make } from "./elements.js";
import { BUDGETS, state, UNASKED } from "./state.js";

const KINDS = { flops: "FLOP", dollars: "dollars", hours: "device-hours", deadline: "hours until the deadline", loss: "target loss" };
const MONEY = { dollars: ["price", "device", "mfu"], hours: ["device", "mfu"], deadline: ["devices", "device", "mfu"] };
/** Label and example of each field. */
export const LABELS = {
  price: ["Dollars per device-hour", "2.50"],
  device: ["Device", "h100"],
  devices: ["Number of devices", "64"],
  mfu: ["Share of peak FLOP/s reached", "40%"],
  max_params: ["Parameters at most", "7B"],
  min_params: ["Parameters at least", "1B"],
  params: ["Parameters, fixed", "7B"],
  max_tokens: ["Tokens at most", "1T"],
  tokens: ["Tokens, fixed", "300B"],
  unique_tokens: ["Unique tokens available", "100B"],
  serve_tokens: ["Tokens served over its lifetime", "1T"],
  min_ratio: ["Tokens per parameter at least", "20"],
  max_ratio: ["Tokens per parameter at most", "200"],
  memory: ["Memory for weights at serving", "8GB"],
  bytes_per_param: ["Bytes per parameter at serving", "2"],
  regret: ["Show what other sizes would cost", ""],
};
const PAYING = new Set(["price", "device", "devices", "mfu"]);
const CHOICES = new Set(["fit", "law"]);
/** Labels of what else a message may name. */
const OTHERS = { column: "Column", unit: "Unit" };
let described = new Map();

/** The label of a field: a short one of the page, or else the service's own words. */
export function label(name) {
  return LABELS[name]?.[0] ?? described.get(name)?.description.replace(/\.?(\s*\[.*\])?\s*$/, "") ?? name.replaceAll("_", " ");
}

/** Build the form from the fields that the service describes; `changed` is called on input. */
export function build(parameters, changed) {
  described = new Map(parameters.filter((p) => !CHOICES.has(p.name) && !UNASKED.has(p.name)).map((p) => [p.name, p]));
  const names = [...described.keys()];
  const flags = names.filter((n) => described.get(n).schema.enum?.includes("true"));
  const limits = names.filter((n) => ![...BUDGETS, ...PAYING, ...flags].includes(n));
  find("#kind").replaceChildren(...BUDGETS.filter((k) => described.has(k)).map((k) => make("option", { value: k }, KINDS[k])));
  find("#limit-fields").replaceChildren(...sorted(limits).map((n) => field(n, changed)));
  find("#money").replaceChildren(...[...PAYING].filter((n) => described.has(n)).map((n) => field(n, changed)));
  find("#flags").replaceChildren(...flags.map((n) => flag(n, changed)));
  find("#clear").addEventListener("click", () => {
    for (const name of Object.keys(state.fields)) {
      if (!BUDGETS.includes(name) && !(MONEY[state.kind] ?? []).includes(name)) delete state.fields[name];
    }
    fill();
    changed();
  });
}

/** Fields with a label of the page in its order, then the others. */
function sorted(names) {
  const order = Object.keys(LABELS);
  const place = (n) => (order.includes(n) ? order.indexOf(n) : order.length);
  return names.toSorted((a, b) => place(a) - place(b));
}

function flag(name, changed) {
  const input = make("input", { type: "checkbox", id: `field-${name}`, name });
  input.addEventListener("change", () => {
    if (input.checked) state.fields[name] = "true";
    else delete state.fields[name];
    changed();
  });
  return make("p", { class: "check" }, input, make("label", { for: input.id }, label(name)));
}

function field(name, changed) {
  const about = described.get(name).description;
  const input = make("input", {
    id: `field-${name}`, name, placeholder: LABELS[name]?.[1] ?? "", spellcheck: "false", autocomplete: "off",
    "aria-describedby": `field-${name}-fault`, title: about,
  });
  input.addEventListener("input", () => {
    const value = input.value.trim();
    if (value) state.fields[name] = value;
    else delete state.fields[name];
    count();
    changed();
  });
  return make("div", { class: "field", "data-field": name },
    make("label", { for: input.id }, label(name)), input, make("p", { class: "field-fault", id: `field-${name}-fault` }));
}

/** What messages advise and the page has otherwise, or not at all. */
const ADVICE = [
  [/,? or insist with (`force=true`|--force)/g, ""],
  [/,? or compare all the same with (`force=true`|--force)/g, ""],
  [/\s*To see it all the same: (`force=true`|--force)\./g, ""],
  [/; ask: (\/v1\/predict\S*|isoflop predict .*)$/g, "; leave one of them empty."],
];

/** A message of the service in the words of the page: labels of fields instead of names and options. */
export function pageWords(message) {
  for (const [pattern, words] of ADVICE) message = message.replace(pattern, words);
  const named = (name, value) => {
    const words = KINDS[name] ?? LABELS[name]?.[0] ?? OTHERS[name];
    return words === undefined ? null : `“${words}”${value ? `: ${value}` : ""}`;
  };
  message = message.replace(/`([a-z_]+)(?:=([^`]*))?`/g, (whole, name, value) => named(name, value) ?? whole.slice(1, -1));
  if (/isoflop \w/.test(message)) return message; // it quotes a command, whose options must stay
  // The --loss that a law was fitted with is not the loss that a question asks for.
  return message.replace(/--(?!loss huber)([a-z]+(?:-[a-z]+)*)/g, (option, name) => named(name.replaceAll("-", "_")) ?? option);
}

/** Put the state into the form. */
export function fill() {
  for (const input of document.querySelectorAll("#ask .field input")) input.value = state.fields[input.name] ?? "";
  find("#kind").value = state.kind;
  find("#amount").title = described.get(state.kind)?.description ?? "";
  for (const input of document.querySelectorAll("#flags input")) input.checked = input.name in state.fields;
  const needed = MONEY[state.kind] ?? [];
  for (const row of document.querySelectorAll("#money .field")) row.hidden = !needed.includes(row.dataset.field) && !(row.dataset.field in state.fields);
  count();
  if (limitsSet()) find("#limits").open = true;
}

/** Change the unit of the budget. */
export function setBudgetKind(kind) {
  for (const name of [...BUDGETS, ...PAYING]) if (!(MONEY[kind] ?? []).includes(name)) delete state.fields[name];
  state.kind = kind;
}

/** How many fields limit the question. */
function limitsSet() {
  return Object.keys(state.fields).filter((n) => ![...BUDGETS, ...PAYING, "regret"].includes(n)).length;
}

function count() {
  const set = limitsSet();
  find("#limits-set").textContent = set ? `${set} set` : "";
}

/** Show an error at its field; false if no visible field is wrong. */
export function showFieldError(fault) {
  for (const place of document.querySelectorAll("#ask .field-fault")) place.textContent = "";
  for (const input of document.querySelectorAll("#ask [aria-invalid]")) input.removeAttribute("aria-invalid");
  if (!fault?.field) return false;
  const own = BUDGETS.includes(fault.field);
  const input = own ? find("#amount") : find(`#field-${CSS.escape(fault.field)}`);
  if (!input || input.closest("[hidden]")) return false;
  input.setAttribute("aria-invalid", "true");
  find(own ? "#amount-fault" : `#${input.id}-fault`).textContent = pageWords(fault.message);
  return true;
}
