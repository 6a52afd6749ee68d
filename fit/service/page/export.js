// Save a chart as a picture or as the numbers it draws.

import { make, save } from "./elements.js";

/** Pixels of a saved picture for each one on the screen, so that it is sharp in print. */
const SCALE = 3;

/** Put buttons for every format beside each chart; `rows` gives the numbers of a figure by its id. */
export function listenToExports(rows) {
  for (const button of document.querySelectorAll("figure .svg")) {
    const figure = button.closest("figure");
    const name = figure.id.slice("figure-".length);
    const title = figure.querySelector("h2").textContent;
    const further = ["PNG", "CSV"].map((form) => make("button", { type: "button", class: `quiet small ${form.toLowerCase()}`, "aria-label": `Save ${title} as ${form}` }, form));
    button.replaceWith(make("span", { class: "formats" }, button.cloneNode(true), further));
    figure.querySelector(".svg").addEventListener("click", () => save(`${name}.svg`, svgText(figure), "image/svg+xml"));
    further[0].addEventListener("click", async () => save(`${name}.png`, await picture(figure)));
    further[1].addEventListener("click", () => save(`${name}.csv`, csvText(rows(name)), "text/csv"));
  }
}

/** The chart of a figure as an SVG document, without the tip at the pointer. */
function svgText(figure) {
  const chart = figure.querySelector("svg.chart").cloneNode(true);
  chart.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  chart.querySelectorAll('[aria-label="tip"]').forEach((t) => t.remove());
  return new XMLSerializer().serializeToString(chart);
}

/** The chart as a PNG on the ground of the page. */
async function picture(figure) {
  const url = URL.createObjectURL(new Blob([svgText(figure)], { type: "image/svg+xml" }));
  try {
    const image = new Image();
    image.src = url;
    await image.decode();
    const chart = figure.querySelector("svg.chart");
    const canvas = make("canvas");
    [canvas.width, canvas.height] = ["width", "height"].map((side) => SCALE * Number(chart.getAttribute(side)));
    const context = canvas.getContext("2d");
    context.fillStyle = getComputedStyle(document.body).backgroundColor;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** Rows of numbers under the names of their columns; what is not known is left empty. */
function csvText([head, rows]) {
  return `${[head, ...rows].map((row) => row.map((cell) => cell ?? "").join(",")).join("\n")}\n`;
}

/** The numbers that the charts of a law draw: frontier and runs, or the loss along each budget. */
export function curveRows(name, curves) {
  if (name === "valleys") {
    return [["flops", "params", "loss"], curves.valleys.flatMap((v) => v.params.map((n, i) => [v.flops, n, v.loss[i]]))];
  }
  const { value, low, high } = curves[name];
  return [["kind", "flops", name, "low", "high", "inside"], [
    ...curves.flops.map((flops, i) => ["law", flops, value[i], low[i], high[i], curves.inside[i]]),
    ...curves.runs.map((run) => ["run", run.flops, run[name], null, null, true]),
  ]];
}
