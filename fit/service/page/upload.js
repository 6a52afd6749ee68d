// The dialog that takes a table of runs, shows how it would be read, and has it fitted.

import { Newest, request } from "./api.js";
import { fault, find, make, table } from "./elements.js";
import { pageWords } from "./limits.js";

const TYPES = {
  csv: "text/csv", tsv: "text/tab-separated-values", jsonl: "application/jsonl", ndjson: "application/jsonl",
  json: "application/json", parquet: "application/vnd.apache.parquet",
};
const MOST_BYTES = 20 * 2 ** 20;
const COUNTS = [["", "as they are"], ["k", "thousands"], ["M", "millions"], ["B", "billions"], ["T", "trillions"]];
/** Our columns: label, units as the service takes them, and what says that there is none whatever a name states. */
const ROLES = {
  params: ["Parameters N", COUNTS, "1"],
  tokens: ["Training tokens D", COUNTS, "1"],
  loss: ["Loss", [["", "nats per token"], ["bits", "bits per token"], ["bpb", "bits per byte"], ["ppl", "perplexity"]], "nats"],
  flops: ["Compute C", [["", "FLOP"], ["1e15", "PFLOP"], ["1e18", "EFLOP"], ["1e21", "ZFLOP"], ["8.64e19", "PFLOP-days"]], "1"],
};
/** An upload; closing the dialog cancels it, so that no late reply changes the law. */
const upload = new Newest();
const reading = new Newest();
/** How the table would be read, once that is known; `ready` is settled when it is. */
let preview = null;
let ready = Promise.resolve();
let read = null;

/** Set up the dialog; `done` is called with the name of the new fit. */
export function listenToUpload(families, done) {
  const dialog = find("#upload");
  find("#family").replaceChildren(...families
    .filter((f) => f.target === "loss")
    .map((f) => make("option", { value: f.name }, `${f.name}: ${f.formula}`)));
  find("#close-upload").addEventListener("click", () => dialog.close());
  find("#file").addEventListener("change", look);
  find("#wide").addEventListener("change", () => preview && showRoles());
  dialog.addEventListener("close", () => {
    upload.cancel();
    showBusy(null);
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

/** Open the dialog, with a file where one was dropped on the page. */
export function openUpload(files = null) {
  fault(find("#upload-fault"), null);
  if (files?.length) find("#file").files = files;
  if (find("#file").files[0] !== read) look();
  if (!find("#upload").open) find("#upload").showModal();
}

/** The content type of a file; a file that cannot be sent is named, and why. */
function typeOf(file) {
  const kind = file.name.toLowerCase().replace(/\.(gz|zst|bz2|xz)$/, "").split(".").at(-1);
  const wrong = !(kind in TYPES)
    ? `${file.name} is no table that can be sent; choose a .${Object.keys(TYPES).join(", .")} file.`
    : file.size > MOST_BYTES ? `${file.name} has ${Math.ceil(file.size / 2 ** 20)} MB; at most 20 MB can be sent.` : null;
  fault(find("#upload-fault"), wrong);
  return wrong ? null : TYPES[kind];
}

/** Post the file; the service's document, or null where it was refused. */
async function post(path, file, words, signal) {
  const type = typeOf(file);
  if (!type) return null;
  showBusy(words);
  try {
    const document = await (await request(path, { method: "POST", body: file, headers: { "content-type": type }, signal })).json();
    signal.throwIfAborted();
    return document;
  } catch (error) {
    signal.throwIfAborted();
    fault(find("#upload-fault"), pageWords(error.message));
    return null;
  } finally {
    if (!signal.aborted) showBusy(null);
  }
}

/** Ask how the chosen file would be read, and show it. */
function look() {
  [read] = find("#file").files;
  preview = null;
  find("#reading").hidden = true;
  if (!read) return;
  ready = reading.run(async (signal) => {
    preview = await post("v1/preview", read, `Reading ${read.name} …`, signal);
    if (!preview) return;
    find("#wide").value = preview.wide ?? "";
    if (preview.wide) find("#upload details").open = true;
    const words = `${preview.rows} row${preview.rows === 1 ? "" : "s"}, ${preview.columns.length} columns`;
    find("#preview-count").textContent = words;
    showRoles();
    find("#cluster").replaceChildren(find("#cluster").options[0],
      ...preview.columns.map((c) => make("option", { value: c.name }, `those of equal ${c.name}`)));
    find("#reading").hidden = false;
  });
}

/** The menus that say which column is which, in which unit. */
function showRoles() {
  const wide = find("#wide").value;
  find("#roles").replaceChildren(...Object.entries(ROLES).map(([ours, [label, units]]) => {
    const exact = preview.columns.some((c) => c.name === ours);
    const none = ours === "flops" ? "none: 6 · N · D" : "choose …";
    const column = make("select", { id: `role-${ours}` },
      exact ? null : make("option", { value: "" }, none),
      preview.columns.map((c) => make("option", { value: c.name }, c.numbers ? c.name : `${c.name} (text)`)));
    column.value = preview.mapping[ours] ?? "";
    const unit = make("select", { id: `unit-${ours}`, "aria-label": `Unit of ${label}` }, units.map(([value, words]) => make("option", { value }, words)));
    const stated = () => preview.columns.find((c) => c.name === column.value)?.units[ours] ?? "";
    const setUnit = () => {
      if (!units.some(([value]) => value === stated())) unit.append(make("option", { value: stated() }, `× ${stated()}`));
      unit.value = stated();
    };
    column.addEventListener("change", () => {
      setUnit();
      showRows();
    });
    setUnit();
    const inName = wide && (ours === wide || ours === "loss");
    column.disabled = Boolean(inName);
    return make("div", { class: "role" }, make("label", { for: column.id }, label), inName ? make("p", { class: "hint" }, ours === wide ? "the names of the columns" : "the cells") : column, unit);
  }));
  showRows();
}

/** The first rows, each column under its name and what it is taken for. */
function showRows() {
  const role = (name) => Object.keys(ROLES).find((ours) => find(`#role-${ours}`)?.value === name);
  const head = preview.columns.map((c) => [role(c.name) ? make("b", { class: "taken" }, role(c.name)) : "", c.name]);
  const rows = preview.columns[0].first.map((_, i) => preview.columns.map((c) => c.first[i]));
  find("#preview").replaceChildren(table("The first rows", head, rows));
}

/** The fields of the upload, by the menus. */
function fields() {
  const query = new URLSearchParams({ law: find("#family").value });
  const wide = preview ? find("#wide").value : "";
  if (wide) query.append("wide", wide);
  for (const [ours, [, , plain]] of preview ? Object.entries(ROLES) : []) {
    const name = find(`#role-${ours}`)?.value ?? "";
    if (name && name !== ours) query.append("column", `${ours}=${name}`);
    const unit = find(`#unit-${ours}`).value;
    const stated = preview.columns.find((c) => c.name === name)?.units[ours];
    if (unit || stated) query.append("unit", `${ours}=${unit || plain}`);
  }
  // Blanks separate entries only where another begins: `loss=val loss, params=n` names two columns.
  for (const entry of find("#columns").value.split(/[,;\n]+|\s+(?=\w+=)/)) if (entry.trim()) query.append("column", entry.trim());
  for (const [name, id] of [["where", "#condition"], ["cluster", "#cluster"], ["name", "#fit-name"]]) {
    if (find(id).value.trim()) query.append(name, find(id).value.trim());
  }
  return query;
}

/** Send the chosen file; the name of its fit, or null if it was refused. */
async function send(signal) {
  await ready;
  signal.throwIfAborted();
  const [file] = find("#file").files;
  return (await post(`v1/fits?${fields()}`, file, `Fitting ${file.name} …`, signal))?.name ?? null;
}

function showBusy(words) {
  find("#send").disabled = words !== null;
  find("#upload-status").textContent = words ?? "";
}
