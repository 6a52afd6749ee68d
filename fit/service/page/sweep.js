// A sweep while it trains: what is done, running, failed and left, and how its runs become part of a fit.

import { getDocument, request, ServiceError } from "./api.js";
import { fault, find, make, sentenceCase, table } from "./elements.js";
import { four, percent, short, three } from "./format.js";
import { pageWords } from "./limits.js";

/** Between two requests while it trains, and once it is over or out of sight. */
const EVERY_MS = 3000;
const SELDOM_MS = 15_000;
const MOST_NAMED = 8;
const UNITS = [["d", 86_400], ["h", 3600], ["min", 60]];

/** Follow the sweep; `told` is called with each state of it, `fitted` with the name of a fit made on request, if one may be made. */
export async function followSweep(told, fitted) {
  find("#sweep").hidden = false;
  find("#fit-sweep").hidden = !fitted;
  find("#fit-sweep").addEventListener("click", () => fitNow(told, fitted));
  for (;;) {
    let over = false;
    if (!document.hidden) {
      try {
        const sweep = await getDocument("v1/sweep");
        over = sweep.over;
        show(sweep);
        await told(sweep);
      } catch (error) {
        if (!(error instanceof ServiceError)) throw error;
        fault(find("#sweep-fault"), pageWords(error.message));
      }
    }
    await new Promise((resolve) => { setTimeout(resolve, over || document.hidden ? SELDOM_MS : EVERY_MS); });
  }
}

/** Fit the runs that are done, and show the fit. */
async function fitNow(told, fitted) {
  const busy = (words) => {
    find("#fit-sweep").disabled = Boolean(words);
    find("#sweep-status").textContent = words;
  };
  busy("Fitting …");
  fault(find("#sweep-now-fault"), null);
  try {
    const { name } = await (await request("v1/sweep", { method: "POST" })).json();
    const sweep = await getDocument("v1/sweep");
    show(sweep);
    await told(sweep);
    await fitted(name);
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    fault(find("#sweep-now-fault"), pageWords(error.message));
  } finally {
    busy("");
  }
}

/** A time with three digits and a unit. */
function duration(seconds) {
  const [unit, size] = UNITS.find(([, s]) => seconds >= s) ?? ["s", 1];
  return size === 1 ? `${Math.round(seconds)} s` : `${three(seconds / size)} ${unit}`;
}

function show(sweep) {
  fault(find("#sweep-fault"), null);
  const alive = sweep.running.filter((r) => r.alive);
  const { counts, planned } = sweep;
  const rate = alive.reduce((sum, r) => sum + (r.tokens_per_second ?? 0), 0);
  const words = [
    planned ? `${counts.done} of ${planned} runs done` : `${counts.done} runs done`,
    counts.running ? `${counts.running} running` : null,
    ...["failed", "diverged"].map((status) => (counts[status] ? `${counts[status]} ${status}` : null)),
    counts.missing ? `${counts.missing} left` : null,
  ].filter(Boolean).join(", ");
  const left = sweep.seconds_left == null ? "" : `about ${duration(sweep.seconds_left)} left`;
  const pace = sweep.over ? "It is over" : alive.length ? sentenceCase([left, rate ? `${short(rate)} tokens/s` : ""].filter(Boolean).join(", ") || "in training") : "Its workers are starting, or were lost";
  find("#sweep-name").textContent = sweep.name;
  find("#sweep-words").textContent = `${words}. ${pace}.`;
  find("#sweep-line").hidden = false;
  find("#sweep-line a").textContent = `Sweep ${sweep.name}: ${words}`;
  const bar = find("#sweep-bar");
  bar.hidden = !planned;
  [bar.max, bar.value] = [planned || 1, counts.done];
  find("#sweep-running").hidden = !sweep.running.length;
  find("#sweep-running").replaceChildren(table("Runs in training", ["Run", "Trained", "Tokens", "Loss", "Tokens/s", "Left"], sweep.running.map(row)));
  find("#sweep-now").hidden = !counts.done;
  find("#sweep-fit").replaceChildren(...offer(sweep));
  const problems = sweep.ended.filter((r) => r.status !== "done");
  const more = problems.length - MOST_NAMED;
  find("#sweep-problems").replaceChildren(
    ...problems.slice(0, MOST_NAMED).map((r) => make("li", { class: "warning" }, make("b", {}, r.status), ` ${r.run}: ${r.reason ?? "no reason given"}`)),
    ...(more > 0 ? [make("li", {}, `and ${more} more: isoflop runs ${sweep.folder}`)] : []));
}

function row(run) {
  const share = run.total ? run.tokens / run.total : 0;
  const left = run.alive ? (run.seconds_left == null ? "–" : duration(run.seconds_left)) : `silent for ${duration(run.silent_seconds)} (${run.host})`;
  return [
    run.run, [make("progress", { value: String(share), max: "1", "aria-label": `Trained of ${run.run}` }), ` ${percent(Number(share.toFixed(2)))}`],
    `${short(run.tokens)} of ${short(run.total)}`, run.loss == null ? "–" : four(run.loss), run.tokens_per_second == null ? "–" : short(run.tokens_per_second), left,
  ];
}

/** How the runs that no fit knows become part of one. */
function offer({ counts, fits, folder }) {
  const runs = (n) => `${n} run${n === 1 ? "" : "s"}`;
  const command = (words) => [make("code", {}, `isoflop fit ${folder}${words}`), "; this page then shows it."];
  if (!fits.length && counts.done) return [`No fit of this sweep is in service. To fit the ${runs(counts.done)} done: `, ...command("")];
  return fits.filter((f) => f.fresh.length).map((f) => make("p", { class: "hint" }, `${f.name} does not know ${runs(f.fresh.length)} of this sweep. To fit again: `, ...command(` --out reports/${f.name}`)));
}
