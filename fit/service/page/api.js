// Requests to the service, with the token if it needs one; errors have the service's kind and field.

export class ServiceError extends Error {
  constructor({ kind, message, field }, verdict = null) {
    super(message);
    this.verdict = verdict;
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
  options.signal?.throwIfAborted();
  throw new ServiceError(body?.error ?? { kind: "unknown", message: `The service answered with status ${response.status}.` }, body && verdictOf(body));
}

/** The verdict of a document or of a refusal; null where it has none. */
export function verdictOf(document) {
  return document?.verdict ? { verdict: document.verdict, reason: document.verdict_reason } : null;
}

/** Whether a verdict forbids to show what it is about. */
export function refused(verdict) {
  return verdict?.verdict === "refuse";
}

/** Fetch a JSON document. */
export async function getDocument(path, fields = {}, options = {}) {
  const query = new URLSearchParams(Object.entries(fields).filter(([, v]) => v !== null && v !== ""));
  const response = await request(query.size ? `${path}?${query}` : path, options);
  const document = await response.json();
  options.signal?.throwIfAborted();
  return document;
}

/**
 * Requests of one kind, of which the newest alone counts.
 *
 * A new one cancels the one before. Whatever still comes of that, reply or error, is dropped: `work`
 * gets the signal for its requests, and what it throws after it was cancelled is not thrown on.
 */
export class Newest {
  #controller = null;

  cancel() {
    this.#controller?.abort();
    this.#controller = null;
  }

  async run(work) {
    this.cancel();
    const controller = (this.#controller = new AbortController());
    try {
      await work(controller.signal);
    } catch (error) {
      if (!controller.signal.aborted) throw error;
    }
  }
}
