// The data of the charts as tables, for screen readers and for copying.

import { find, make, table } from "./elements.js";
import { four, power, short } from "./format.js";

const MOST = 300;

/** The frontier and the runs. */
export function show(curves) {
  const rows = curves.flops.map((flops, i) => [
    power(flops),
    ranged(curves.params, i, short),
    ranged(curves.tokens, i, short),
    ranged(curves.loss, i, four),
    curves.inside[i] ? "inside the range of the runs" : "extrapolates",
  ]);
  place("#table-frontier", table("The best split of each budget", ["Compute [FLOP]", "Parameters", "Tokens", `Loss [${curves.loss_unit}]`, ""], rows));
  const runs = curves.runs.slice(0, MOST).map((r) => [r.run, power(r.flops), short(r.params), short(r.tokens), four(r.loss), `${(100 * Math.expm1(r.residual)).toFixed(2)}%`]);
  find("#table-runs").hidden = !runs.length;
  const more = curves.runs.length > MOST ? make("p", { class: "hint" }, `The first ${MOST} of ${curves.runs.length}; all are in the CSV.`) : null;
  place("#table-runs", table("The fitted runs", ["Run", "Compute [FLOP]", "Parameters", "Tokens", "Loss", "residual"], runs), more);
}

function place(id, ...content) {
  find(`${id} .scroll`).replaceChildren(...content.filter(Boolean));
}

function ranged(curve, i, form) {
  if (curve.value[i] == null) return "–";
  const ends = curve.low[i] == null || curve.high[i] == null ? "" : ` [${form(curve.low[i])}, ${form(curve.high[i])}]`;
  return form(curve.value[i]) + ends;
}
