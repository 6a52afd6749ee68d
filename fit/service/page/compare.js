// Two laws: how much compute the one needs to reach the other's loss.

import { document_ } from "./api.js";
import { find, make, table } from "./elements.js";
import { four, power, three } from "./format.js";

/** Compare and show the multipliers. */
export async function compare(a, b, flops) {
  const place = find("#comparison");
  if (!b) {
    place.replaceChildren();
    return;
  }
  try {
    show(place, await document_("v1/compare", { a, b, ...(flops ? { flops } : {}) }), a, b);
  } catch (fault) {
    const insist = make("button", { type: "button", class: "small" }, "Compare all the same");
    insist.addEventListener("click", async () => {
      try {
        show(place, await document_("v1/compare", { a, b, force: true, ...(flops ? { flops } : {}) }), a, b);
      } catch (again) {
        place.replaceChildren(make("p", { class: "fault" }, again.message));
      }
    });
    place.replaceChildren(make("p", { class: "fault" }, fault.message), ...(fault.kind === "question" ? [insist] : []));
  }
}

function show(place, found, a, b) {
  const rows = found.rows.map((r) => [
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
    make("div", { class: "scroll" }, table(`Compute multiplier of ${a} against ${b} [${found.unit}]`, head, rows)),
    make("ul", { class: "notes" }, found.warnings.map((w) => make("li", { class: w.severity }, make("b", {}, w.severity), " ", w.message))),
  );
}
