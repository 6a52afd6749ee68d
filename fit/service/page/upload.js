// The dialog that uploads a table of runs and has it fitted.

import { request } from "./api.js";
import { fault, find, make } from "./elements.js";

const TYPES = {
  csv: "text/csv", tsv: "text/tab-separated-values", jsonl: "application/jsonl", ndjson: "application/jsonl",
  json: "application/json", parquet: "application/vnd.apache.parquet",
};

/** Set up the dialog; `done` is called with the name of the new fit. */
export function listenToUpload(families, done) {
  const dialog = find("#upload");
  find("#family").replaceChildren(...families
    .filter((f) => f.target === "loss")
    .map((f) => make("option", { value: f.name }, `${f.name}: ${f.formula}`)));
  find("#open-upload").addEventListener("click", () => dialog.showModal());
  find("#close-upload").addEventListener("click", () => dialog.close());
  find("#upload-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    await send(dialog, done);
  });
}

async function send(dialog, done) {
  const [file] = find("#file").files;
  const kind = file.name.toLowerCase().replace(/\.(gz|zst|bz2|xz)$/, "").split(".").at(-1);
  const query = new URLSearchParams({ law: find("#family").value });
  for (const column of find("#columns").value.split(/[\s,;]+/).filter(Boolean)) query.append("column", column);
  for (const unit of find("#units").value.split(/[\s,;]+/).filter(Boolean)) query.append("unit", unit);
  if (find("#condition").value.trim()) query.append("where", find("#condition").value);
  fault(find("#upload-fault"), null);
  find("#send").disabled = true;
  find("#upload-status").textContent = `Fitting ${file.name} …`;
  try {
    const headers = { "content-type": TYPES[kind] ?? "application/octet-stream" };
    const response = await request(`v1/fits?${query}`, { method: "POST", body: file, headers });
    const fit = await response.json();
    dialog.close();
    await done(fit.name);
  } catch (error) {
    fault(find("#upload-fault"), error.message);
  } finally {
    find("#send").disabled = false;
    find("#upload-status").textContent = "";
  }
}
