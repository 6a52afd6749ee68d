// One chart of one fit or law, for a frame on another page: `embed?fit=NAME&chart=loss`, with `flops` the answer too.

import { refused, verdictOf } from "./api.js";
import { lossChart, optimumChart, palette, valleyChart } from "./charts.js";
import { fault, find, make, sentenceCase } from "./elements.js";

const CHARTS = {
  loss: ["Loss against compute", (curves, answer, colours) => lossChart(curves, answer, null, colours)],
  params: ["Best model size", (curves, answer, colours) => optimumChart("params", curves, answer, null, colours)],
  tokens: ["Best training tokens", (curves, answer, colours) => optimumChart("tokens", curves, answer, null, colours)],
  valleys: ["IsoFLOP curves", (curves, answer, colours) => valleyChart(curves, colours)],
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
  const answer = Object.keys(question).length > Object.keys(law).length ? await get("v1/query", question) : null;
  find("#full").href = `./?${new URLSearchParams(question)}`;
  find("#title").textContent = `${title}: ${curves.source}`;
  document.title = `${title}: ${curves.source}`;
  const verdict = verdictOf(curves);
  if (verdict) {
    find("#verdict").hidden = false;
    find("#verdict").className = `verdict ${verdict.verdict}`;
    find("#verdict").replaceChildren(make("b", {}, verdict.verdict), " ", sentenceCase(verdict.reason));
  }
  if (refused(verdict)) return;
  if (chart === "valleys" && !curves.valleys.length) throw new Error(`${curves.source} has no runs at equal budgets.`);
  const draw = () => drawing(curves, answer, palette());
  draw();
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

start()
  .catch((error) => fault(find("#fault"), error.message))
  .finally(() => { document.body.dataset.ready = "true"; });
