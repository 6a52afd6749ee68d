// Several questions side by side, and sets of them that are saved by name in this browser.

import { getDocument, Newest, refused, ServiceError, verdictOf } from "./api.js";
import { fault, find, make } from "./elements.js";
import { amount, ends, four, power, read, short, three } from "./format.js";
import { label, pageWords } from "./limits.js";
import { askedFields, BUDGETS, saveToAddress, source, state, UNASKED } from "./state.js";

const STORE = "isoflop-scenarios";
/** Most questions side by side: each is asked again whenever the page is opened. */
export const MOST_BESIDE = 8;
const requests = new Newest();

/** The saved scenarios: addresses by name. What another program has left there is ignored. */
function saved() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORE) ?? "{}");
    return Object.fromEntries(Object.entries(stored ?? {}).filter(([, v]) => typeof v === "string" && v.startsWith("?")));
  } catch {
    return {};
  }
}

function store(scenarios) {
  localStorage.setItem(STORE, JSON.stringify(scenarios));
  listSaved();
}

function listSaved(chosen = "") {
  const names = Object.keys(saved()).toSorted();
  find("#scenario").replaceChildren(make("option", { value: "" }, names.length ? "choose …" : "none yet"), ...names.map((n) => make("option", { value: n }, n)));
  find("#scenario").value = chosen;
  find("#delete-scenario").hidden = !chosen;
}

/** The question of one row: its own fields, without what the page does not send. */
function fieldsOf(question) {
  return Object.fromEntries([...new URLSearchParams(question)].filter(([name]) => !UNASKED.has(name)));
}

/** The present question, as it is kept beside others. */
function present() {
  return String(new URLSearchParams({ ...source(), ...askedFields() }));
}

/** How a question is named: its budget, its law and its limits. */
function nameOf(question) {
  const { fit, law, ...fields } = fieldsOf(question);
  const words = Object.entries(fields).map(([name, value]) => (name === "flops" ? (Number.isNaN(read(value)) ? value : `${value} FLOP`) : name === "dollars" ? `$${value}`
    : BUDGETS.includes(name) ? `${value} ${name}` : `${label(name)}: ${value}`));
  return `${words.join(", ")} (${fit ?? law})`;
}

/** Ask every question that stands beside the present one, and show them in one table. */
export async function showBeside() {
  find("#beside-count").textContent = state.beside.length ? `${state.beside.length + 1} questions` : "";
  const questions = [present(), ...state.beside];
  if (!state.beside.length) {
    requests.cancel();
    find("#beside-table").replaceChildren();
    return;
  }
  await requests.run(async (signal) => {
    const replies = await Promise.all(questions.map((q) => reply(q, signal)));
    signal.throwIfAborted();
    const rows = questions.map((q, i) => make("tr", {}, ...row(q, i, replies[i])));
    const head = ["Question", "Verdict", "N", "D", "D/N", "Loss", "FLOP", "Dollars", ""];
    find("#beside-table").replaceChildren(make("table", {},
      make("caption", { class: "visually-hidden" }, "Questions side by side"),
      make("thead", {}, make("tr", {}, head.map((h) => (h ? make("th", { scope: "col" }, h) : make("td", {}))))),
      make("tbody", {}, rows)));
  });
}

async function reply(question, signal) {
  try {
    return { answer: await getDocument("v1/query", fieldsOf(question), { signal }) };
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof ServiceError)) throw error;
    return { error };
  }
}

function row(question, place, { answer, error }) {
  const verdict = error ? error.verdict : verdictOf(answer);
  const name = place ? make("a", { href: `?${question}` }, nameOf(question)) : `${nameOf(question)}, this question`;
  const remove = make("button", { type: "button", class: "quiet small", "aria-label": `Remove ${nameOf(question)}` }, "Remove");
  remove.addEventListener("click", () => {
    state.beside = state.beside.toSpliced(place - 1, 1);
    saveToAddress(true);
    showBeside();
  });
  const cells = error || refused(verdict)
    ? [make("td", { colspan: 6 }, pageWords(error?.message ?? verdict.reason))]
    : [
      ...[[answer.params, short, "params"], [answer.tokens, short, "tokens"], [answer.tokens_per_param, three, "tokens_per_param"], [answer.loss, four, "loss"]]
        .map(([number, form, key]) => make("td", {}, make("data", { value: String(number.value), "data-name": key }, form(number.value)), make("span", { class: "more" }, ends(number, form)))),
      make("td", {}, power(answer.flops.value)),
      make("td", {}, answer.cost?.dollars ? `$${amount(answer.cost.dollars.value)}` : "–"),
    ];
  return [make("th", { scope: "row" }, name), make("td", {}, make("b", { class: `tone ${verdict?.verdict ?? ""}` }, verdict?.verdict ?? "–")), ...cells, make("td", {}, place ? remove : "")];
}

/** The budgets of a list: blanks part bare numbers; of budgets in words, `8 h100 for 3 days; 1e21`, only marks do. */
function budgetsIn(text) {
  return text.split(/;|,(?!\d{3}\b)/).map((part) => part.trim()).filter(Boolean).flatMap((part) => {
    const words = part.split(/\s+/);
    return words.every((word) => /^[$€]?[\d.]/.test(word)) ? words : [part];
  });
}

/** Put questions beside the present one; those that stand there already are not repeated. */
function add(questions) {
  const wanted = [...new Set([...state.beside, ...questions])];
  fault(find("#beside-fault"), wanted.length > MOST_BESIDE ? `At most ${MOST_BESIDE} questions stand beside this one; remove some first.` : null);
  if (wanted.length > MOST_BESIDE) return;
  state.beside = wanted;
  saveToAddress(true);
  showBeside();
}

/** Listen to the section; `open` is called after a saved scenario has become the address. */
export function listenToScenarios(open) {
  listSaved();
  find("#keep").addEventListener("click", () => add([present()]));
  find("#budgets").addEventListener("submit", (event) => {
    event.preventDefault();
    const limits = Object.fromEntries(Object.entries(askedFields()).filter(([name]) => !BUDGETS.includes(name)));
    add(budgetsIn(find("#more-budgets").value).map((value) => String(new URLSearchParams({ ...source(), [state.kind]: value, ...limits }))));
  });
  find("#save-scenario").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = find("#scenario-name").value.trim();
    if (!name) return;
    store({ ...saved(), [name]: location.search });
    listSaved(name);
    find("#scenario-name").value = "";
  });
  find("#scenario").addEventListener("change", (event) => {
    const name = event.target.value;
    listSaved(name);
    if (!name) return;
    history.pushState(null, "", saved()[name]);
    open();
  });
  find("#delete-scenario").addEventListener("click", () => {
    const { [find("#scenario").value]: _, ...others } = saved();
    store(others);
  });
}
