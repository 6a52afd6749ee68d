// The question's form: the budget in its units, and what the model is held to.

import { find, make } from "./elements.js";
import { BUDGETS, state } from "./state.js";

const KINDS = { flops: "FLOP", dollars: "dollars", hours: "device-hours", deadline: "hours until done", loss: "target loss" };
const MONEY = { dollars: ["price", "device", "mfu"], hours: ["device", "mfu"], deadline: ["devices", "device", "mfu"] };
/** Each field's words, and an example. */
export const LABELS = {
  price: ["Dollars per device-hour", "2.50"],
  device: ["Device", "h100"],
  devices: ["Devices at once", "64"],
  mfu: ["Share of the peak reached", "40%"],
  max_params: ["Parameters at most", "7B"],
  min_params: ["Parameters at least", "1B"],
  params: ["Parameters, fixed", "7B"],
  max_tokens: ["Tokens at most", "1T"],
  tokens: ["Tokens, fixed", "300B"],
  unique_tokens: ["Unique tokens there are", "100B"],
  serve_tokens: ["Tokens served in its life", "1T"],
  min_ratio: ["Tokens per parameter at least", "20"],
  max_ratio: ["Tokens per parameter at most", "200"],
  memory: ["Memory for weights at serving", "8GB"],
  bytes_per_param: ["Bytes per parameter at serving", "2"],
};
const PAYING = new Set(["price", "device", "devices", "mfu"]);

/** Make the form of the fields that this service knows; call back when one changes. */
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

/** Change what the budget is counted in. */
export function choose(kind) {
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

/** Show a fault at its field; true where there is one to show it at. */
export function blame(fault) {
  for (const place of document.querySelectorAll("#ask .field-fault")) place.textContent = "";
  for (const input of document.querySelectorAll("#ask [aria-invalid]")) input.removeAttribute("aria-invalid");
  if (!fault?.field) return false;
  const own = BUDGETS.includes(fault.field);
  const input = own ? find("#amount") : find(`#field-${CSS.escape(fault.field)}`);
  if (!input || input.closest("[hidden]")) return false;
  input.setAttribute("aria-invalid", "true");
  find(own ? "#amount-fault" : `#${input.id}-fault`).textContent = fault.message;
  return true;
}
