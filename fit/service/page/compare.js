// Compare two laws: how much compute one needs to reach the loss of the other.

import { getDocument } from "./api.js";
import { find, make, table } from "./elements.js";
import { four, power, three } from "./format.js";

/** Fetch a comparison and show its compute multipliers. */
export async function compare(a, b, flops) {
  const place = find("#comparison");
  if (!b) {
    place.replaceChildren();
    return;
  }
  try {
    show(place, await getDocument("v1/compare", { a, b, ...(flops ? { flops } : {}) }), a, b);
  } catch (error) {
    const insist = make("button", { type: "button", class: "small" }, "Compare anyway");
    insist.addEventListener("click", async () => {
      try {
        show(place, await getDocument("v1/compare", { a, b, force: true, ...(flops ? { flops } : {}) }), a, b);
      } catch (again) {
        place.replaceChildren(make("p", { class: "fault" }, again.message));
      }
    });
    place.replaceChildren(make("p", { class: "fault" }, error.message), ...(error.kind === "question" ? [insist] : []));
  }
}

function show(place, comparison, a, b) {
  const rows = comparison.rows.map((r) => [
    power(r.flops),
    r.multiplier.value == null ? "never" : `×${three(r.multiplier.value)}`,
    r.multiplier.low == null && r.multiplier.high == null ? "–"
      : `[${r.multiplier.low == null ? "0" : three(r.multiplier.low)}, ${r.multiplier.high == null ? "∞" : three(r.multiplier.high)}]`,
    four(r.loss_a),
    four(r.loss_b),
    r.inside ? "inside" : "extrapolates",
  ]);
  const head = [`Budget of ${b}`, `${a} needs`, "interval", `loss of ${a}`, `loss of ${b}`, ""];
  place.replaceChildren(
    make("div", { class: "scroll" }, table(`Compute multiplier of ${a} against ${b} [${comparison.unit}]`, head, rows)),
    make("ul", { class: "notes" }, comparison.warnings.map((w) => make("li", { class: w.severity }, make("b", {}, w.severity), " ", w.message))),
  );
}
