// The page: what is asked goes into the address, the answer comes from the service.

import { command, show, spoken } from "./answer.js";
import { document_, latest, request } from "./api.js";
import { lossChart, optimumChart, palette, saveChart, valleyChart } from "./charts.js";
import { compare } from "./compare.js";
import { fault, find, make, save } from "./elements.js";
import { power, read, typed } from "./format.js";
import { blame, build, choose, fill } from "./limits.js";
import { asked, keep, restore, source, state } from "./state.js";
import { show as showTables } from "./tables.js";
import { wire } from "./upload.js";

let answer = null;
let curves = null;
let rival = null;
let span = [1e18, 1e24];
let hush = 0;

/** Ask what the form says, and show it. */
const ask = latest(async () => {
  keep();
  try {
    answer = await document_("v1/query", { ...source(), ...asked() });
    fault(find("#fault"), null);
    blame(null);
    show(answer);
    find("#answer").classList.remove("stale");
    settle();
    draw();
  } catch (error) {
    if (!("kind" in error)) throw error;
    find("#answer").classList.add("stale");
    fault(find("#fault"), blame(error) ? null : error.message);
  }
});

/** Draw every chart of the fit and the answer in force. */
function draw() {
  if (!curves) return;
  const colours = palette();
  lossChart(curves, answer, rival, colours);
  optimumChart("params", curves, answer, rival, colours);
  optimumChart("tokens", curves, answer, rival, colours);
  valleyChart(curves, colours);
}

/** The slider at the answer's budget, the live region a while after the last change. */
function settle() {
  if (state.kind !== "flops") slide(answer.flops.value);
  clearTimeout(hush);
  hush = setTimeout(() => { find("#live").textContent = spoken(answer); }, 600);
}

const [near, far] = [3, 3000];

/** The ends of the slider, in ln FLOP. */
function ends() {
  return [Math.log(span[0] / near), Math.log(span[1] * far)];
}

function slide(flops) {
  const [low, high] = ends();
  const slider = find("#slider");
  slider.value = String((Math.log(flops) - low) / (high - low));
  slider.setAttribute("aria-valuetext", `${power(flops)} FLOP`);
}

/** Mark on the slider's scale where the runs are. */
function scale() {
  const [low, high] = ends();
  const share = (flops) => `${(100 * (Math.log(flops) - low)) / (high - low)}%`;
  const bar = find("#inside").style;
  [bar.left, bar.width] = [share(span[0]), `calc(${share(span[1])} - ${share(span[0])})`];
  for (const [id, flops, words] of [["#low", span[0], power(span[0])], ["#high", span[1], `${power(span[1])}, largest fitted`], ["#far", span[1] * 1000, "×1000"]]) {
    find(id).style.left = share(flops);
    find(id).textContent = words;
  }
}

/** Load a law: its curves, its range, then the answer. */
async function load() {
  find("#source").value = state.law ? `law:${state.law}` : `fit:${state.fit}`;
  for (const id of ["#get-report", "#get-runs"]) find(id).hidden = Boolean(state.law);
  try {
    curves = await document_("v1/curves", source());
    span = curves.range.flops ?? span;
    showTables(curves);
  } catch (error) {
    curves = null;
    fault(find("#fault"), error.message);
  }
  scale();
  if (!Object.keys(asked()).some((n) => n === state.kind)) {
    choose("flops");
    state.fields.flops = typed(10 * span[1]);
  }
  fill();
  find("#amount").value = state.fields[state.kind];
  if (state.kind === "flops") slide(read(state.fields.flops));
  await against();
  await ask();
}

/** The law that is compared. */
async function against() {
  find("#rival").value = state.vs ?? "";
  rival = null;
  const own = state.law ?? state.fit;
  if (state.vs && curves) {
    const fit = fits.some((f) => f.name === state.vs);
    rival = await document_("v1/curves", { [fit ? "fit" : "law"]: state.vs }).catch(() => null);
  }
  draw();
  await compare(own, state.vs);
}

let fits = [];
let laws = [];
let families = [];

/** The lists of laws to choose from. */
async function lists() {
  [{ fits }, { laws, families }] = await Promise.all([document_("v1/fits"), document_("v1/laws")]);
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

function wireQuestion() {
  find("#source").addEventListener("change", (event) => {
    const [kind, name] = event.target.value.split(/:(.*)/);
    Object.assign(state, { fit: null, law: null, [kind]: name, fields: {}, kind: "flops" });
    load();
  });
  find("#kind").addEventListener("change", (event) => {
    choose(event.target.value);
    if (state.kind === "flops" && answer) state.fields.flops = typed(answer.flops.value);
    if (state.kind === "loss" && answer) state.fields.loss = answer.loss.value.toPrecision(5);
    fill();
    find("#amount").value = state.fields[state.kind] ?? "";
    ask();
  });
  find("#amount").addEventListener("input", (event) => {
    state.fields[state.kind] = event.target.value.trim();
    if (state.kind === "flops" && read(event.target.value) > 0) slide(read(event.target.value));
    ask();
  });
  find("#slider").addEventListener("input", (event) => {
    const [low, high] = ends();
    if (state.kind !== "flops") {
      choose("flops");
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
    keep();
    against();
  });
  find("#ask").addEventListener("submit", (event) => event.preventDefault());
}

function wireTheme() {
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

/** Say for a while that something was done. */
function said(id, words) {
  find(id).textContent = words;
  setTimeout(() => { find(id).textContent = ""; }, 4000);
}

function wireTaking() {
  find("#share").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      said("#shared", "Copied.");
    } catch {
      said("#shared", "Copy it from the address bar.");
    }
  });
  for (const button of document.querySelectorAll("figure .svg")) {
    button.addEventListener("click", () => saveChart(button.closest("figure")));
  }
  find("#get-json").addEventListener("click", () => save("answer.json", JSON.stringify(answer, null, 1), "application/json"));
  find("#get-config").addEventListener("click", () => save("launch.sh", `${command(answer)}\n`, "text/x-shellscript"));
  find("#get-runs").addEventListener("click", () => fetched(`v1/fits/${state.fit}/runs.csv`, `${state.fit}-runs.csv`));
  find("#get-report").addEventListener("click", () => fetched(`v1/report/${state.fit}.pdf`, `${state.fit}.pdf`));
}

/** A file of the service, saved. */
async function fetched(path, name) {
  find("#taken").textContent = "Making it …";
  try {
    save(name, await (await request(path)).blob());
    said("#taken", "Saved.");
  } catch (error) {
    find("#taken").textContent = error.message;
  }
}

async function begin() {
  restore();
  wireTheme();
  wireQuestion();
  wireTaking();
  const description = await document_("openapi.json");
  build(description.paths["/v1/query"].get.parameters, ask);
  await lists();
  wire(families, async (name) => {
    Object.assign(state, { fit: name, law: null, fields: {}, kind: "flops" });
    await lists();
    await load();
  });
  await load();
  document.body.dataset.ready = "true";
}

begin().catch((error) => fault(find("#fault"), error.message));
