// The service, asked with the token where it needs one; a fault is an Error with kind and field.

export class Fault extends Error {
  constructor({ kind, message, field }) {
    super(message);
    this.kind = kind;
    this.field = field;
  }
}

let asked = null;

function token() {
  return sessionStorage.getItem("isoflop-token");
}

/** Ask for the token, once however many requests wait for it. */
function door() {
  asked ??= new Promise((resolve) => {
    const dialog = document.querySelector("#door");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("isoflop-token", document.querySelector("#token").value.trim());
      asked = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asked;
}

/** A response; what is refused is thrown. */
export async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token()) headers.authorization = `Bearer ${token()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault({ kind: "network", message: "The service does not answer. Is it still running?" });
  }
  if (response.status === 401) {
    await door();
    return request(path, options);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Fault(body?.error ?? { kind: "unknown", message: `The service said ${response.status}.` });
}

/** A document. */
export async function document_(path, fields = {}, options = {}) {
  const query = new URLSearchParams(Object.entries(fields).filter(([, v]) => v !== null && v !== ""));
  const response = await request(query.size ? `${path}?${query}` : path, options);
  return response.json();
}

/** A function of which at most one call runs, and of those that come meanwhile the last. */
export function latest(work) {
  let running = false;
  let waiting = null;
  return async function call(...given) {
    if (running) {
      waiting = given;
      return;
    }
    running = true;
    try {
      await work(...given);
    } finally {
      running = false;
      if (waiting) {
        const next = waiting;
        waiting = null;
        call(...next);
      }
    }
  };
}
