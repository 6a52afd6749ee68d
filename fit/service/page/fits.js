// The menu of all fits: found by words, with their status; those that were sent in are renamed, kept, deleted.

import { request } from "./api.js";
import { fault, find, make } from "./elements.js";
import { pageWords } from "./limits.js";

const SIGNS = { trust: "✓ trust", careful: "! careful", refuse: "✕ refused" };
let lists = { fits: [], laws: [], uploads: "off" };
let reload = async () => lists;
let choose = () => {};
let changed = async () => {};

/**
 * Set up the menu.
 *
 * `load` fetches the lists, `chosen` is called with kind and name, `moved` with a fit's old name and its
 * new one, or null where it was deleted.
 */
export function listenToFits(load, chosen, moved) {
  [reload, choose, changed] = [load, chosen, moved];
  find("#find-fit").addEventListener("input", showRows);
  find("#find-fit").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault(); // else the key also presses the button that gets the focus back
    find("#fits-table .name button")?.click();
  });
  find("#close-fits").addEventListener("click", () => find("#fits").close());
}

/** Open the menu, with the fits as they are now. */
export async function openFits() {
  fault(find("#fits-fault"), null);
  find("#find-fit").value = "";
  find("#fits").showModal();
  await refresh();
}

async function refresh() {
  lists = await reload();
  showRows();
}

function showRows() {
  const words = find("#find-fit").value.toLowerCase().split(/\s+/).filter(Boolean);
  const all = [
    ...lists.fits.map((f) => ({ kind: "fit", ...f, origin: f.uploaded ? "sent in" : f.kept ? "sent in, kept" : f.newest ? "newest" : "" })),
    ...lists.laws.map((l) => ({ kind: "law", name: l.name, law: l.law, origin: "published" })),
  ].map((row) => ({ ...row, text: [row.name, row.law, row.verdict, row.status, row.origin].join(" ").toLowerCase() }));
  const found = all.filter((row) => words.every((word) => row.text.includes(word)));
  find("#fits-count").textContent = `${found.length} of ${all.length}`;
  find("#fits-table").replaceChildren(make("table", {},
    make("caption", { class: "visually-hidden" }, "Fits and published laws"),
    make("thead", {}, make("tr", {}, ["Name", "Verdict", "Law", "Runs", ""].map((h) => make("th", { scope: "col" }, h)))),
    make("tbody", {}, found.map(row))));
}

function row(fit) {
  const open = make("button", { type: "button", class: "quiet small" }, fit.name);
  open.addEventListener("click", () => {
    find("#fits").close();
    choose(fit.kind, fit.name);
  });
  const name = make("td", { class: "name" }, open, make("span", { class: "more" }, fit.origin));
  const trouble = fit.trouble ? `its file cannot be read: ${fit.trouble}` : fit.verdict_reason;
  return make("tr", {}, name,
    make("td", { class: `tone ${fit.verdict ?? ""}`, title: trouble }, fit.verdict ? SIGNS[fit.verdict] : ""),
    make("td", {}, fit.law ?? ""), make("td", {}, String(fit.runs_used ?? "")),
    make("td", { class: "acts" }, fit.uploaded || fit.kept ? acts(fit, name) : []));
}

/** What can be done with a fit that was sent in. */
function acts(fit, name) {
  const button = (words, act) => {
    const element = make("button", { type: "button", class: "quiet small", "aria-label": `${words} ${fit.name}` }, words);
    element.addEventListener("click", () => act(element));
    return element;
  };
  const address = `v1/fits/${encodeURIComponent(fit.name)}`;
  const keep = button("Keep", () => send(`${address}?keep=true`, "PATCH", fit.name, fit.name));
  return [
    fit.uploaded && lists.uploads === "keep" ? keep : null,
    button("Rename", () => showRename(fit.name, name, (to) => send(`${address}?${new URLSearchParams({ name: to })}`, "PATCH", fit.name, to))),
    button("Delete", (element) => {
      if (element.textContent === "Delete") element.textContent = "Delete for good?";
      else send(address, "DELETE", fit.name, null);
    }),
  ];
}

function showRename(name, cell, rename) {
  const input = make("input", { value: name, maxlength: 100, spellcheck: "false", "aria-label": `New name of ${name}` });
  const form = make("form", { class: "line" }, input, make("button", { type: "submit", class: "small" }, "Save"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    rename(input.value.trim());
  });
  cell.replaceChildren(form);
  input.select();
}

/** Change a fit, and show the menu as it then is. */
async function send(path, method, before, after) {
  fault(find("#fits-fault"), null);
  try {
    await request(path, { method });
  } catch (error) {
    fault(find("#fits-fault"), pageWords(error.message));
    return;
  }
  await refresh();
  await changed(before, after);
}
