// The page: the question is kept in the address, the answer comes from the service.

import { command, show, spoken } from "./answer.js";
import { getDocument, latest, request } from "./api.js";
import { lossChart, optimumChart, palette, saveChart, valleyChart } from "./charts.js";
import { compare } from "./compare.js";
import { fault, find, make, save } from "./elements.js";
import { power, read, typed } from "./format.js";
import { build, fill, pageWords, setBudgetKind, showFieldError } from "./limits.js";
import { askedFields, readAddress, saveToAddress, source, state } from "./state.js";
import { show as showTables } from "./tables.js";
import { listenToUpload } from "./upload.js";

let answer = null;
let curves = null;
let rival = null;
let span = [1e18, 1e24];
let announceTimer = 0;

/** Send the question of the form and show the answer. */
const ask = latest(async () => {
  saveToAddress();
  try {
    answer = await getDocument("v1/query", { ...source(), ...askedFields() });
    fault(find("#fault"), null);
    showFieldError(null);
    show(answer);
    find("#answer").classList.remove("stale");
    showBudget();
    draw();
  } catch (error) {
    if (!("kind" in error)) throw error;
    find("#answer").classList.add("stale");
    fault(find("#fault"), showFieldError(error) ? null : pageWords(error.message));
  }
});

/** Draw all charts for the present law and answer. */
function draw() {
  if (!curves) return;
  const colours = palette();
  lossChart(curves, answer, rival, colours);
  optimumChart("params", curves, answer, rival, colours);
  optimumChart("tokens", curves, answer, rival, colours);
  valleyChart(curves, colours);
}

/** Move the slider to the answer's budget; announce the answer once changes have stopped. */
function showBudget() {
  if (state.kind !== "flops") moveSlider(answer.flops.value);
  clearTimeout(announceTimer);
  announceTimer = setTimeout(() => { find("#live").textContent = spoken(answer); }, 600);
}

const [near, far] = [3, 3000];

/** The ends of the slider, in ln FLOP. */
function ends() {
  return [Math.log(span[0] / near), Math.log(span[1] * far)];
}

function moveSlider(flops) {
  const [low, high] = ends();
  const slider = find("#slider");
  slider.value = String((Math.log(flops) - low) / (high - low));
  slider.setAttribute("aria-valuetext", `${power(flops)} FLOP`);
}

/** Mark the range of the fitted runs on the slider. */
function labelSlider() {
  const [low, high] = ends();
  const share = (flops) => `${(100 * (Math.log(flops) - low)) / (high - low)}%`;
  const bar = find("#inside").style;
  [bar.left, bar.width] = [share(span[0]), `calc(${share(span[1])} - ${share(span[0])})`];
  for (const [id, flops, words] of [["#low", span[0], power(span[0])], ["#high", span[1], `${power(span[1])}, largest fitted`], ["#far", span[1] * 1000, "×1000"]]) {
    find(id).style.left = share(flops);
    find(id).textContent = words;
  }
}

/** Load a law: its curves and range, then the answer. */
async function load() {
  find("#source").value = state.law ? `law:${state.law}` : `fit:${state.fit}`;
  for (const id of ["#get-report", "#get-runs"]) find(id).hidden = Boolean(state.law);
  try {
    curves = await getDocument("v1/curves", source());
    span = curves.range.flops ?? span;
    showTables(curves);
  } catch (error) {
    curves = null;
    fault(find("#fault"), error.message);
  }
  labelSlider();
  if (!Object.keys(askedFields()).some((n) => n === state.kind)) {
    setBudgetKind("flops");
    state.fields.flops = typed(10 * span[1]);
  }
  fill();
  find("#amount").value = state.fields[state.kind];
  if (state.kind === "flops") moveSlider(read(state.fields.flops));
  await loadComparison();
  await ask();
}

/** Load the law to compare with, and the comparison. */
async function loadComparison() {
  find("#rival").value = state.vs ?? "";
  rival = null;
  const own = state.law ?? state.fit;
  if (state.vs && curves) {
    const fit = fits.some((f) => f.name === state.vs);
    rival = await getDocument("v1/curves", { [fit ? "fit" : "law"]: state.vs }).catch(() => null);
  }
  draw();
  await compare(own, state.vs);
}

let fits = [];
let laws = [];
let families = [];

/** Load the lists of fits, published laws and families. */
async function loadLists() {
  [{ fits }, { laws, families }] = await Promise.all([getDocument("v1/fits"), getDocument("v1/laws")]);
  const answering = fits.filter((f) => f.answers || f.name === state.fit);
  const option = (value) => (name) => make("option", { value: value(name) }, name);
  const groups = (value) => [
    make("optgroup", { label: "Fits" }, answering.map((f) => option(value("fit"))(f.name))),
    make("optgroup", { label: "Published laws" }, laws.map((l) => option(value("law"))(l.name))),
  ];
  find("#source").replaceChildren(...groups((kind) => (name) => `${kind}:${name}`));
  find("#rival").replaceChildren(make("option", { value: "" }, "nothing"), ...groups(() => (name) => name));
  if (!state.fit && !state.law) {
    state.fit = answering.find((f) => f.newest)?.name ?? answering[0]?.name ?? null;
    if (!state.fit) state.law = "besiroglu2024";
  }
}

function listenToQuestion() {
  find("#source").addEventListener("change", (event) => {
    const [kind, name] = event.target.value.split(/:(.*)/);
    Object.assign(state, { fit: null, law: null, [kind]: name, fields: {}, kind: "flops" });
    load();
  });
  find("#kind").addEventListener("change", (event) => {
    setBudgetKind(event.target.value);
    if (state.kind === "flops" && answer) state.fields.flops = typed(answer.flops.value);
    if (state.kind === "loss" && answer) state.fields.loss = answer.loss.value.toPrecision(5);
    fill();
    find("#amount").value = state.fields[state.kind] ?? "";
    ask();
  });
  find("#amount").addEventListener("input", (event) => {
    state.fields[state.kind] = event.target.value.trim();
    if (state.kind === "flops" && read(event.target.value) > 0) moveSlider(read(event.target.value));
    ask();
  });
  find("#slider").addEventListener("input", (event) => {
    const [low, high] = ends();
    if (state.kind !== "flops") {
      setBudgetKind("flops");
      fill();
    }
    state.fields.flops = typed(Math.exp(low + Number(event.target.value) * (high - low)));
    find("#amount").value = state.fields.flops;
    event.target.setAttribute("aria-valuetext", `${state.fields.flops} FLOP`);
    ask();
  });
  find("#slider").step = "0.0025";
  find("#rival").addEventListener("change", (event) => {
    state.vs = event.target.value || null;
    saveToAddress();
    loadComparison();
  });
  find("#ask").addEventListener("submit", (event) => event.preventDefault());
}

function listenToTheme() {
  const root = document.documentElement;
  const stored = localStorage.getItem("isoflop-theme");
  if (stored) root.dataset.theme = stored;
  find("#theme").addEventListener("click", () => {
    const dark = getComputedStyle(root).getPropertyValue("--scheme").trim() === "dark";
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("isoflop-theme", root.dataset.theme);
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) requestAnimationFrame(draw);
    width = innerWidth;
  });
}

/** Show a message for a few seconds. */
function showStatus(id, words) {
  find(id).textContent = words;
  setTimeout(() => { find(id).textContent = ""; }, 4000);
}

function listenToDownloads() {
  find("#share").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      showStatus("#share-status", "Link copied.");
    } catch {
      showStatus("#share-status", "Please copy the link from the address bar.");
    }
  });
  for (const button of document.querySelectorAll("figure .svg")) {
    button.addEventListener("click", () => saveChart(button.closest("figure")));
  }
  find("#get-json").addEventListener("click", () => save("answer.json", JSON.stringify(answer, null, 1), "application/json"));
  find("#get-config").addEventListener("click", () => save("launch.sh", `${command(answer)}\n`, "text/x-shellscript"));
  find("#get-runs").addEventListener("click", () => download(`v1/fits/${state.fit}/runs.csv`, `${state.fit}-runs.csv`));
  find("#get-report").addEventListener("click", () => download(`v1/report/${state.fit}.pdf`, `${state.fit}.pdf`));
}

/** Save a file of the service. */
async function download(path, name) {
  find("#download-status").textContent = "Preparing the file …";
  try {
    save(name, await (await request(path)).blob());
    showStatus("#download-status", "Saved.");
  } catch (error) {
    find("#download-status").textContent = error.message;
  }
}

async function start() {
  readAddress();
  listenToTheme();
  listenToQuestion();
  listenToDownloads();
  const description = await getDocument("openapi.json");
  build(description.paths["/v1/query"].get.parameters, ask);
  await loadLists();
  listenToUpload(families, async (name) => {
    Object.assign(state, { fit: name, law: null, fields: {}, kind: "flops" });
    await loadLists();
    await load();
  });
  await load();
  document.body.dataset.ready = "true";
}

start().catch((error) => fault(find("#fault"), error.message));
