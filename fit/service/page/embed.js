// One chart of one fit or law, for a frame on another page: `embed?fit=NAME&chart=loss`, with `flops` the answer too.

import { refused, verdictOf } from "./api.js";
import { lossChart, optimumChart, palette, valleyChart } from "./charts.js";
import { fault, find, make, sentenceCase } from "./elements.js";
import { exact } from "./format.js";
import { BUDGETS } from "./state.js";
import { contoursChart } from "./whatif.js";

const CHARTS = {
  loss: ["Loss against compute", (curves, answer, colours) => lossChart(curves, answer, null, colours)],
  params: ["Best model size", (curves, answer, colours) => optimumChart("params", curves, answer, null, colours)],
  tokens: ["Best training tokens", (curves, answer, colours) => optimumChart("tokens", curves, answer, null, colours)],
  valleys: ["IsoFLOP curves", (curves, answer, colours) => valleyChart(curves, colours)],
  contours: ["Loss over parameters and tokens", (curves, contours, colours) => contoursChart(contours, curves.runs, colours)],
};
const THEMES = ["light", "dark"];

/** A document of the service; a frame asks for no token. */
async function get(path, fields) {
  const response = await fetch(`${path}?${new URLSearchParams(fields)}`);
  if (response.status === 401) throw new Error("This service requires a token, which a frame does not ask for. Open the page itself.");
  const body = await response.json();
  if (response.ok) return body;
  throw new Error(body.error.message);
}

/** What a chart shows beside the law: the answer, where one is asked for; contours always lie around one. */
async function answerOf(chart, question, law, curves) {
  if (chart !== "contours") return Object.keys(question).length > Object.keys(law).length ? get("v1/query", question) : null;
  const flops = exact(curves.further); // as the page asks at first
  return get("v1/contours", BUDGETS.some((name) => name in question) ? question : { flops, ...question });
}

function showVerdict(verdict) {
  if (!verdict) return;
  find("#verdict").hidden = false;
  find("#verdict").className = `verdict ${verdict.verdict}`;
  find("#verdict").replaceChildren(make("b", {}, verdict.verdict), " ", sentenceCase(verdict.reason));
}

async function start() {
  const asked = Object.fromEntries(new URLSearchParams(location.search));
  const { chart = "loss", theme, ...question } = asked;
  if (!Object.hasOwn(CHARTS, chart)) throw new Error(`chart is “${chart}”; one of ${Object.keys(CHARTS).join(", ")} is needed.`);
  if (theme && !THEMES.includes(theme)) throw new Error(`theme is “${theme}”; light or dark is needed.`);
  if (theme) document.documentElement.dataset.theme = theme;
  const law = Object.fromEntries(Object.entries(question).filter(([name]) => ["fit", "law"].includes(name)));
  const [title, drawing] = CHARTS[chart];
  find("figure").id = `figure-${chart}`;
  const curves = await get("v1/curves", law);
  find("#full").href = `./?${new URLSearchParams(question)}`;
  find("#title").textContent = `${title}: ${curves.source}`;
  document.title = `${title}: ${curves.source}`;
  showVerdict(verdictOf(curves));
  if (refused(verdictOf(curves))) return;
  if (chart === "valleys" && !curves.valleys.length) throw new Error(`${curves.source} has no runs at equal budgets.`);
  const answer = await answerOf(chart, question, law, curves);
  const forced = refused(verdictOf(answer)); // by an address with force=true: what is refused is not shown
  if (chart === "contours" || forced) showVerdict(verdictOf(answer));
  if (chart === "contours" && forced) return;
  const draw = () => drawing(curves, forced ? null : answer, palette());
  draw();
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

start()
  .catch((error) => fault(find("#fault"), error.message))
  .finally(() => { document.body.dataset.ready = "true"; });
