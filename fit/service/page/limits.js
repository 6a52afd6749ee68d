// The form of the question: the budget in its units, and the limits.

import { find, make } from "./elements.js";
import { BUDGETS, state } from "./state.js";

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
};
const PAYING = new Set(["price", "device", "devices", "mfu"]);

/** Build the form from the fields that the service describes; `changed` is called on input. */
export function build(parameters, changed) {
  const known = new Map(parameters.map((p) => [p.name, p.description]));
  const kinds = BUDGETS.filter((k) => known.has(k));
  find("#kind").replaceChildren(...kinds.map((k) => make("option", { value: k }, KINDS[k])));
  const limits = Object.keys(LABELS).filter((n) => known.has(n) && !PAYING.has(n));
  find("#limit-fields").replaceChildren(...limits.map((n) => field(n, known.get(n), changed)));
  find("#money").replaceChildren(...[...PAYING].filter((n) => known.has(n)).map((n) => field(n, known.get(n), changed)));
  find("#sizes").hidden = !known.has("regret");
  find("#regret").addEventListener("change", (event) => {
    if (event.target.checked) state.fields.regret = "true";
    else delete state.fields.regret;
    changed();
  });
  find("#clear").addEventListener("click", () => {
    limits.forEach((n) => delete state.fields[n]);
    fill();
    changed();
  });
}

function field(name, about, changed) {
  const [label, example] = LABELS[name];
  const input = make("input", {
    id: `field-${name}`, name, placeholder: example, spellcheck: "false", autocomplete: "off",
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
    make("label", { for: input.id }, label), input, make("p", { class: "field-fault", id: `field-${name}-fault` }));
}

/** A message of the service in the words of the page: labels of fields instead of options. */
export function pageWords(message) {
  if (/isoflop \w/.test(message)) return message; // it quotes a command, whose options must stay
  return message.replace(/--([a-z]+(?:-[a-z]+)*)/g, (option, name) => {
    const label = KINDS[name] ?? LABELS[name.replaceAll("-", "_")]?.[0];
    return label ? `“${label}”` : option;
  });
}

/** Put the state into the form. */
export function fill() {
  for (const input of document.querySelectorAll("#ask .field input")) input.value = state.fields[input.name] ?? "";
  find("#kind").value = state.kind;
  find("#regret").checked = "regret" in state.fields;
  const needed = MONEY[state.kind] ?? [];
  for (const row of document.querySelectorAll("#money .field")) row.hidden = !needed.includes(row.dataset.field);
  count();
  if (limitsSet()) find("#limits").open = true;
}

/** Change the unit of the budget. */
export function setBudgetKind(kind) {
  for (const name of [...BUDGETS, ...PAYING]) if (!(MONEY[kind] ?? []).includes(name)) delete state.fields[name];
  state.kind = kind;
}

function limitsSet() {
  return Object.keys(state.fields).filter((n) => n in LABELS && !PAYING.has(n)).length;
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
