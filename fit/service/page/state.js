// The question, kept in the address so that a link asks it again.

export const state = { fit: null, law: null, vs: null, kind: "flops", fields: {} };

const OWN = new Set(["fit", "law", "vs"]);
export const BUDGETS = ["flops", "dollars", "hours", "deadline", "loss"];

/** Take the state from the address. */
export function readAddress() {
  const query = new URLSearchParams(location.search);
  for (const name of OWN) state[name] = query.get(name);
  state.fields = Object.fromEntries([...query].filter(([name]) => !OWN.has(name)));
  state.kind = BUDGETS.find((name) => name in state.fields) ?? "flops";
}

/** Put the state into the address, without a step in the history. */
export function saveToAddress() {
  const fields = { ...source(), ...(state.vs ? { vs: state.vs } : {}), ...askedFields() };
  history.replaceState(null, "", `?${new URLSearchParams(fields)}`);
}

/** The fit or law of the question. */
export function source() {
  return state.law ? { law: state.law } : state.fit ? { fit: state.fit } : {};
}

/** The fields of the question that are filled in. */
export function askedFields() {
  return Object.fromEntries(Object.entries(state.fields).filter(([, v]) => v !== "" && v != null));
}
