// The question, kept in the address so that a link asks it again.

export const state = { fit: null, law: null, vs: null, at: null, beside: [], kind: "flops", fields: {} };

const OWN = new Set(["fit", "law", "vs", "at"]);
/** Questions beside this one, each an address of its own without the question mark. */
const BESIDE = "beside";
/** Fields that the page does not send: what is refused is not shown. */
export const UNASKED = new Set(["force"]);
export const BUDGETS = ["flops", "dollars", "hours", "deadline", "loss"];

/** Take the state from the address. */
export function readAddress() {
  const query = new URLSearchParams(location.search);
  for (const name of OWN) state[name] = query.get(name);
  state.beside = query.getAll(BESIDE);
  query.delete(BESIDE);
  state.fields = {};
  for (const name of new Set(query.keys())) {
    // A field that is given twice is refused in words, as it is over HTTP.
    if (!OWN.has(name) && !UNASKED.has(name)) state.fields[name] = query.getAll(name).join(" and ");
  }
  state.kind = BUDGETS.find((name) => name in state.fields) ?? "flops";
}

/** Changes that follow one another within this time are one step of the history, as those of a slider. */
const BURST_MS = 1000;
let lastStep = 0;

/** Put the state into the address; a change that the user made is a step that the back button takes back. */
export function saveToAddress(step = false) {
  const address = addressOf();
  if (address === location.search) return;
  if (step && Date.now() - lastStep > BURST_MS) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  if (step) lastStep = Date.now();
}

/** The address of the present question, to be sent to others. */
function addressOf() {
  const query = new URLSearchParams({ ...source(), ...(state.vs ? { vs: state.vs } : {}), ...(state.at ? { at: state.at } : {}), ...askedFields() });
  for (const question of state.beside) query.append(BESIDE, question);
  return `?${query}`;
}

/** The fit or law of the question. */
export function source() {
  return { ...(state.fit ? { fit: state.fit } : {}), ...(state.law ? { law: state.law } : {}) };
}

/** The fields of the question that are filled in. */
export function askedFields() {
  return Object.fromEntries(Object.entries(state.fields).filter(([, v]) => v !== "" && v != null));
}
