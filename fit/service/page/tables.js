// The data of the charts as tables, for screen readers and for copying.

import { find, make, table } from "./elements.js";
import { change, ends, four, power, short } from "./format.js";

/** The frontier; nothing without curves. The runs are those of `runs.js`. */
export function showTables(curves) {
  find(".tables").hidden = !curves;
  if (!curves) return;
  find("#table-frontier").hidden = !curves.flops.length;
  const rows = curves.flops.map((flops, i) => [
    power(flops),
    ranged(curves.params, i, short),
    ranged(curves.tokens, i, short),
    ranged(curves.loss, i, four),
    curves.inside[i] ? "inside the range of the runs" : "extrapolates",
  ]);
  place("#table-frontier", table("The best split of each budget", ["Compute [FLOP]", "Parameters", "Tokens", `Loss [${curves.loss_unit}]`, ""], rows));
}

function place(id, ...content) {
  find(`${id} .scroll`).replaceChildren(...content.filter(Boolean));
}

function ranged(curve, i, form) {
  const [value, low, high] = [curve.value[i], curve.low[i], curve.high[i]];
  return form(value) + ends({ value, low, high }, form);
}

/** How far a run lies above the law, in percent of the loss. */
export function residual(run) {
  const off = run.residual == null ? null : 100 * Math.expm1(run.residual);
  return off == null ? change({ value: null }) : `${change({ value: off }, (v) => v.toFixed(2))}%`;
}
