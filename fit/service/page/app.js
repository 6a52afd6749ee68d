// The page: the question is kept in the address, the answer comes from the service.

import { command, show, spoken } from "./answer.js";
import { getDocument, Newest, refused, request, ServiceError, verdictOf } from "./api.js";
import { lossChart, optimumChart, palette, valleyChart } from "./charts.js";
import { compare } from "./compare.js";
import { fault, find, make, save } from "./elements.js";
import { curveRows, listenToExports } from "./export.js";
import { exact, power, read, typed } from "./format.js";
import { build, fill, pageWords, setBudgetKind, showFieldError } from "./limits.js";
import { drawCurve, listenToRuns, showRuns } from "./runs.js";
import { listenToScenarios, showBeside } from "./scenarios.js";
import { askedFields, readAddress, saveToAddress, source, state } from "./state.js";
import { showTables } from "./tables.js";
import { contourRows, drawContours, listenToContours, loadContours } from "./whatif.js";

let answer = null;
let curves = null;
let rival = null;
/** The law without the runs that are unticked: drawn in place of the law that is compared. */
let left = null;
/** The sweep that the service follows. */
let sweep = null;
let span = [1e18, 1e24];
let announceTimer = 0;
/** Of each kind of request the newest counts: what stands on the page belongs to the present choice. */
const requests = { law: new Newest(), answer: new Newest(), rival: new Newest() };

/** Send the question of the form and show the answer, or why there is none; `step`: the user changed it. */
async function ask(step = false) {
  saveToAddress(step);
  clearTimeout(announceTimer);
  wait(true);
  await requests.answer.run(async (signal) => {
    const [document, error] = await refusable(getDocument("v1/query", { ...source(), ...askedFields() }, { signal }), signal);
    wait(false);
    try {
      showAnswer(document, error);
    } catch (bug) {
      showAnswer(null, new ServiceError({ kind: "page", message: `The page cannot show this answer: ${bug.message}` }));
      throw bug;
    }
  });
}

/** A reply and no refusal, or none and the refusal; what is late is neither. */
async function refusable(reply, signal) {
  try {
    return [await reply, null];
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof ServiceError)) throw error;
    return [null, error];
  }
}

/** Put an answer, or a refusal, in the place of what was shown before. */
function showAnswer(document, error) {
  answer = document;
  const beside = showFieldError(error);
  fault(find("#fault"), error && !beside && !error.verdict ? pageWords(error.message) : null);
  if (error?.verdict) show(null, "No answer to this question", { ...error.verdict, reason: refusal(error) });
  else show(answer);
  draw();
  loadContours(answer, palette);
  showBeside();
  if (answer && (state.kind !== "flops" || !(read(state.fields.flops) > 0))) moveSlider(answer.flops.value);
  announce(error, !beside && !error?.verdict);
}

/** The verdict's reason with what to do about it, of a refusal that names its law first. */
function refusal(error) {
  return error.message.slice(Math.max(0, error.message.indexOf(error.verdict.reason)));
}

/** Mark what is shown as the answer to an earlier question, until the present one is answered. */
function wait(waiting) {
  document.body.classList.toggle("waiting", waiting);
  document.body.classList.toggle("loading", waiting && !curves);
  find("#answer").setAttribute("aria-busy", String(waiting));
  for (const id of ["#get-json", "#get-config"]) find(id).disabled = waiting;
}

/** Draw all charts for the present law and answer; nothing of what is refused. */
function draw() {
  const drawn = curves && !refused(verdictOf(curves));
  find(".charts").hidden = find(".compare").hidden = !drawn;
  if (!drawn) return;
  const given = refused(verdictOf(answer)) ? null : answer;
  const colours = palette();
  const other = left ?? rival;
  lossChart(curves, given, other, colours, freshRuns());
  optimumChart("params", curves, given, other, colours);
  optimumChart("tokens", curves, given, other, colours);
  valleyChart(curves, colours);
  drawContours(colours, curves.runs);
  drawCurve(colours);
}

/** The runs of the sweep that are done and that the fit does not know; none where it is of another sweep. */
function freshRuns() {
  const names = new Set(sweep?.fits.find((f) => f.name === state.fit)?.fresh);
  return names.size ? sweep.ended.filter((r) => names.has(r.run)) : [];
}

/** Follow a sweep: what ends is drawn, and a fit that was made of it meanwhile is loaded. */
async function startSweep() {
  const { followSweep } = await import("./sweep.js");
  await followSweep(async (now) => {
    const [drawn, before] = [freshRuns().length, sweep];
    sweep = now;
    const made = before ? sweep.fits.filter((f) => !before.fits.some((b) => b.name === f.name && b.hash === f.hash)) : [];
    const first = made.length && !answering().length;
    if (made.length) await loadLists();
    if (first) chooseSource("fit", made[0].name);
    else if (made.some((f) => f.name === state.fit)) await load();
    else if (freshRuns().length !== drawn) draw();
  }, uploads === "off" ? null : async (name) => {
    await loadLists();
    if (state.fit !== name) chooseSource("fit", name);
    find("#answer").scrollIntoView();
  });
}

/** Announce the answer, or why there is none, once changes have stopped; an alert announces itself. */
function announce(error, alerted) {
  const refusing = error?.verdict ? `refuse: ${refusal(error)}` : alerted ? "" : error?.message ?? "";
  const words = answer ? spoken(answer) : pageWords(refusing);
  announceTimer = setTimeout(() => { find("#live").textContent = words; }, words ? 600 : 0);
}

const [near, far] = [3, 3000];

/** The ends of the slider, in ln FLOP. */
function ends() {
  return [Math.log(span[0] / near), Math.log(span[1] * far)];
}

function moveSlider(flops) {
  if (!(flops > 0)) return;
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

/** Load a law: its curves and range, then the answer. Nothing of the law before stays. */
async function load(step = false) {
  Object.values(requests).forEach((r) => r.cancel());
  clearTimeout(announceTimer);
  if (step) saveToAddress(true);
  answer = curves = rival = left = null;
  fault(find("#fault"), null);
  showFieldError(null);
  show(null, "\u00a0");
  showTables(null);
  showRuns(null);
  loadContours(null, palette);
  draw();
  wait(true);
  fill();
  find("#amount").value = state.fields[state.kind] ?? "";
  find("#source").value = state.law ? `law:${state.law}` : `fit:${state.fit}`;
  find("#download-status").textContent = "";
  for (const id of ["#get-report", "#get-runs"]) find(id).hidden = Boolean(state.law);
  await requests.law.run(async (signal) => {
    const [document, error] = await refusable(getDocument("v1/curves", source(), { signal }), signal);
    curves = document;
    if (showMissing(error)) return;
    showTables(curves);
    showRuns(curves);
    if (curves?.range.flops?.every((v) => v > 0)) span = curves.range.flops;
    labelSlider();
    if (!Object.keys(askedFields()).some((n) => n === state.kind)) {
      setBudgetKind("flops");
      state.fields.flops = exact(curves?.further ?? 10 * span[1]);
    }
    fill();
    find("#amount").value = state.fields[state.kind];
    if (state.kind === "flops") moveSlider(read(state.fields.flops));
    await Promise.all([ask(), loadComparison()]);
  });
}

/** Say that there is no such fit or law, and which there are; false if there is. */
function showMissing(error) {
  const missing = ["fit", "law"].includes(error?.field);
  document.body.classList.toggle("missing", missing);
  find("#others").hidden = !missing;
  if (!missing) return false;
  wait(false);
  show(null, error.kind === "not_found" ? `There is no such ${error.field}` : "There is no law to ask");
  fault(find("#fault"), pageWords(error.message));
  const links = (words, kind, rows) => (rows.length ? make("p", {}, words, rows.flatMap(({ name }) =>
    [" ", make("a", { href: `?${new URLSearchParams({ [kind]: name })}` }, name)])) : "");
  find("#others").replaceChildren(links("Fits:", "fit", answering()), links("Published laws:", "law", laws));
  return true;
}

/** Load the law to compare with, and the comparison. */
async function loadComparison(force = false) {
  find("#rival").value = state.vs ?? "";
  rival = null;
  draw();
  await requests.rival.run(async (signal) => {
    if (state.vs && curves) {
      const fit = fits.some((f) => f.name === state.vs);
      const [document] = await refusable(getDocument("v1/curves", { [fit ? "fit" : "law"]: state.vs }, { signal }), signal);
      rival = refused(verdictOf(document)) ? null : document;
      draw();
    }
    await compare(state.law ?? state.fit, state.vs, signal, () => loadComparison(true), force);
  });
}

let fits = [];
let laws = [];
let families = [];
/** Whether tables may be sent: off, for the session, or to be kept. */
let uploads = "off";
/** Name of the folder of the sweep that is followed, if any. */
let runs = null;

/** Fits that can be chosen. */
function answering() {
  return fits.filter((f) => f.answers);
}

/** Load the lists of fits, published laws and families. */
async function loadLists() {
  [{ fits, uploads, runs }, { laws, families }] = await Promise.all([getDocument("v1/fits"), getDocument("v1/laws")]);
  const listed = fits.filter((f) => f.answers || f.name === state.fit);
  const option = (value) => (name) => make("option", { value: value(name) }, name);
  const groups = (value) => [
    make("optgroup", { label: "Fits" }, listed.map((f) => option(value("fit"))(f.name))),
    make("optgroup", { label: "Published laws" }, laws.map((l) => option(value("law"))(l.name))),
  ];
  find("#source").replaceChildren(...groups((kind) => (name) => `${kind}:${name}`));
  find("#rival").replaceChildren(make("option", { value: "" }, "nothing"), ...groups(() => (name) => name));
  if (!state.fit && !state.law) {
    state.fit = answering().find((f) => f.newest)?.name ?? answering()[0]?.name ?? null;
    if (!state.fit) state.law = "besiroglu2024";
  }
  find("#empty").hidden = answering().length > 0;
  find("#open-upload").hidden = find("#empty-upload").hidden = uploads === "off";
}

/** The dialogs about fits are fetched when they are first opened. */
function listenToDialogs() {
  const once = (start) => {
    let started = null;
    return () => (started ??= start());
  };
  const uploading = once(async () => {
    const dialog = await import("./upload.js");
    dialog.listenToUpload(families, async (name) => {
      Object.assign(state, { fit: name, law: null, fields: {}, kind: "flops" });
      await loadLists();
      await load();
    });
    if (uploads === "keep") find("#kept-for").textContent = "Its fit is kept for good where you say so under “All fits”.";
    return dialog;
  });
  const listing = once(async () => {
    const dialog = await import("./fits.js");
    const lists = async () => {
      await loadLists();
      return { fits, laws, uploads };
    };
    dialog.listenToFits(lists, chooseSource, async (before, after) => {
      if (state.fit !== before || before === after) return;
      if (!after) state.fields = {};
      state.fit = after;
      await loadLists();
      await load();
    });
    return dialog;
  });
  const open = async (files) => (await uploading()).openUpload(files);
  find("#open-fits").addEventListener("click", async () => (await listing()).openFits());
  for (const id of ["#open-upload", "#empty-upload"]) find(id).addEventListener("click", () => open());
  const holdsFiles = (event) => uploads !== "off" && event.dataTransfer?.types.includes("Files");
  const mark = (on) => document.body.classList.toggle("dropping", on);
  document.addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) mark(false); });
  document.addEventListener("drop", (event) => {
    mark(false);
    if (!holdsFiles(event)) return;
    event.preventDefault();
    open(event.dataTransfer.files);
  });
}

/** Ask another fit or law, from the start. */
function chooseSource(kind, name) {
  Object.assign(state, { fit: null, law: null, [kind]: name, fields: {}, at: null, kind: "flops" });
  load(true);
}

function listenToQuestion() {
  find("#source").addEventListener("change", (event) => {
    const [kind, name] = event.target.value.split(/:(.*)/);
    chooseSource(kind, name);
  });
  find("#kind").addEventListener("change", (event) => {
    setBudgetKind(event.target.value);
    if (state.kind === "flops" && answer?.flops.value > 0) state.fields.flops = typed(answer.flops.value);
    if (state.kind === "loss" && answer?.loss.value > 0) state.fields.loss = answer.loss.value.toPrecision(5);
    fill();
    find("#amount").value = state.fields[state.kind] ?? "";
    ask(true);
  });
  find("#amount").addEventListener("input", (event) => {
    state.fields[state.kind] = event.target.value.trim();
    if (state.kind === "flops" && read(event.target.value) > 0) moveSlider(read(event.target.value));
    ask(true);
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
    ask(true);
  });
  find("#slider").step = "0.0025";
  find("#rival").addEventListener("change", (event) => {
    state.vs = event.target.value || null;
    saveToAddress(true);
    loadComparison();
  });
  find("#ask").addEventListener("submit", (event) => event.preventDefault());
}

/** Ask what the address asks, after the user went back or forward or opened a saved scenario. */
function followAddress() {
  const before = JSON.stringify([source(), state.vs]);
  readAddress();
  if (JSON.stringify([source(), state.vs]) !== before) load();
  else {
    fill();
    find("#amount").value = state.fields[state.kind] ?? "";
    if (state.kind === "flops") moveSlider(read(state.fields.flops ?? ""));
    ask();
  }
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
  for (const media of ["(prefers-color-scheme: dark)", "print"]) matchMedia(media).addEventListener("change", draw);
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
  listenToExports((name) => (name === "contours" ? contourRows() : curveRows(name, curves)));
  find("#get-json").addEventListener("click", () => save("answer.json", JSON.stringify(answer, null, 1), "application/json"));
  find("#get-config").addEventListener("click", () => save("launch.sh", `${command(answer)}\n`, "text/x-shellscript"));
  const name = () => encodeURIComponent(state.fit);
  find("#get-runs").addEventListener("click", () => download(`v1/fits/${name()}/runs.csv`, `${state.fit}-runs.csv`));
  find("#get-report").addEventListener("click", () => download(`v1/report/${name()}.pdf?${new URLSearchParams(reportFields())}`, `${state.fit}.pdf`));
}

/** The present question as a report takes it, which always shows what other sizes cost. */
function reportFields() {
  const { regret, ...fields } = askedFields();
  return fields;
}

/** Save a file of the service; its state is shown as long as its fit is the chosen one. */
async function download(path, name) {
  const fit = state.fit;
  const say = (words) => {
    if (state.fit === fit) find("#download-status").textContent = words;
  };
  say(`Preparing ${name} …`);
  try {
    save(name, await (await request(path)).blob());
    say(`Saved ${name}.`);
  } catch (error) {
    say(`${name}: ${pageWords(error.message)}`);
  }
}

async function start() {
  readAddress();
  listenToTheme();
  listenToQuestion();
  addEventListener("popstate", followAddress);
  listenToScenarios(followAddress);
  listenToContours(palette);
  listenToRuns(() => answer, (document) => {
    left = document;
    draw();
  });
  listenToDownloads();
  const description = await getDocument("openapi.json");
  build(description.paths["/v1/query"].get.parameters, () => ask(true));
  await loadLists();
  listenToDialogs();
  await load();
  document.body.dataset.ready = "true";
  if (runs) await startSweep();
}

start().catch((error) => fault(find("#fault"), error.message));
