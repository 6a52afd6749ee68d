// The dialog that uploads a table of runs and has it fitted.

import { Newest, request } from "./api.js";
import { fault, find, make } from "./elements.js";
import { pageWords } from "./limits.js";

const TYPES = {
  csv: "text/csv", tsv: "text/tab-separated-values", jsonl: "application/jsonl", ndjson: "application/jsonl",
  json: "application/json", parquet: "application/vnd.apache.parquet",
};
const MOST_BYTES = 20 * 2 ** 20;
/** An upload; closing the dialog cancels it, so that no late reply changes the law. */
const upload = new Newest();

/** Set up the dialog; `done` is called with the name of the new fit. */
export function listenToUpload(families, done) {
  const dialog = find("#upload");
  find("#family").replaceChildren(...families
    .filter((f) => f.target === "loss")
    .map((f) => make("option", { value: f.name }, `${f.name}: ${f.formula}`)));
  for (const id of ["#open-upload", "#empty-upload"]) {
    find(id).addEventListener("click", () => {
      fault(find("#upload-fault"), null);
      dialog.showModal();
    });
  }
  find("#close-upload").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    upload.cancel();
    showSending(null);
  });
  find("#upload-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    let name = null;
    await upload.run(async (signal) => {
      name = await send(signal);
    });
    if (name === null) return;
    dialog.close();
    await done(name);
  });
}

/** Send the chosen file; the name of its fit, or null if it was refused. */
async function send(signal) {
  const [file] = find("#file").files;
  const kind = file.name.toLowerCase().replace(/\.(gz|zst|bz2|xz)$/, "").split(".").at(-1);
  fault(find("#upload-fault"), null);
  const wrong = !(kind in TYPES)
    ? `${file.name} is no table that can be sent; choose a .${Object.keys(TYPES).join(", .")} file.`
    : file.size > MOST_BYTES ? `${file.name} has ${Math.ceil(file.size / 2 ** 20)} MB; at most 20 MB can be sent.` : null;
  if (wrong) {
    fault(find("#upload-fault"), wrong);
    return null;
  }
  const query = new URLSearchParams({ law: find("#family").value });
  for (const [name, id] of [["column", "#columns"], ["unit", "#units"]]) {
    // Blanks separate entries only where another begins: `loss=val loss, params=n` names two columns.
    for (const entry of find(id).value.split(/[,;\n]+|\s+(?=\w+=)/)) if (entry.trim()) query.append(name, entry.trim());
  }
  if (find("#condition").value.trim()) query.append("where", find("#condition").value);
  showSending(file.name);
  try {
    const response = await request(`v1/fits?${query}`, { method: "POST", body: file, headers: { "content-type": TYPES[kind] }, signal });
    const fit = await response.json();
    signal.throwIfAborted();
    return fit.name;
  } catch (error) {
    signal.throwIfAborted();
    fault(find("#upload-fault"), pageWords(error.message));
    return null;
  } finally {
    if (!signal.aborted) showSending(null);
  }
}

function showSending(name) {
  find("#send").disabled = name !== null;
  find("#upload-status").textContent = name === null ? "" : `Fitting ${name} …`;
}
