// Requests to the service, with the token if it needs one; errors have the service's kind and field.

export class ServiceError extends Error {
  constructor({ kind, message, field }) {
    super(message);
    this.kind = kind;
    this.field = field;
  }
}

let tokenPrompt = null;

function token() {
  return sessionStorage.getItem("isoflop-token");
}

/** Ask the user for the token; all requests that wait for it share one dialog. */
function askForToken() {
  tokenPrompt ??= new Promise((resolve) => {
    const dialog = document.querySelector("#token-dialog");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("isoflop-token", document.querySelector("#token").value.trim());
      tokenPrompt = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return tokenPrompt;
}

/** Fetch a response; a refusal is thrown as a ServiceError. */
export async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token()) headers.authorization = `Bearer ${token()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError({ kind: "network", message: "The service does not answer. Is it still running?" });
  }
  if (response.status === 401) {
    await askForToken();
    return request(path, options);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ServiceError(body?.error ?? { kind: "unknown", message: `The service answered with status ${response.status}.` });
}

/** Fetch a JSON document. */
export async function getDocument(path, fields = {}, options = {}) {
  const query = new URLSearchParams(Object.entries(fields).filter(([, v]) => v !== null && v !== ""));
  const response = await request(query.size ? `${path}?${query}` : path, options);
  return response.json();
}

/** Wrap a function so that one call runs at a time; of calls made meanwhile, only the last runs. */
export function latest(work) {
  let running = false;
  let waiting = null;
  return async function call(...args) {
    if (running) {
      waiting = args;
      return;
    }
    running = true;
    try {
      await work(...args);
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
