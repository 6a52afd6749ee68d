// Compare two laws: how much compute one needs to reach the loss of the other.

import { getDocument } from "./api.js";
import { fault, find, make, table } from "./elements.js";
import { ends, four, power, three } from "./format.js";
import { pageWords } from "./limits.js";

/** Fetch a comparison and show its compute multipliers; `again` is called with force if the user insists. */
export async function compare(a, b, signal, again, force = false) {
  const place = find("#comparison");
  place.replaceChildren();
  if (!a || !b) return;
  try {
    show(place, await getDocument("v1/compare", { a, b, ...(force ? { force } : {}) }, { signal }), a, b);
  } catch (error) {
    signal.throwIfAborted();
    const words = make("p", { class: "fault" });
    fault(words, pageWords(error.message));
    const insist = make("button", { type: "button", class: "small" }, "Compare anyway");
    insist.addEventListener("click", again);
    // What has no common unit can be compared all the same; what is refused cannot.
    const offered = error.kind === "question" && /`force=true`/.test(error.message) && !force;
    place.replaceChildren(words, ...(offered ? [insist] : []));
  }
}

function show(place, comparison, a, b) {
  const rows = comparison.rows.map((r) => [
    power(r.flops),
    r.multiplier.value == null ? "never" : `×${three(r.multiplier.value)}`,
    ends({ ...r.multiplier, low: r.multiplier.low ?? (r.multiplier.high == null ? null : 0) }, three).trim() || "–",
    four(r.loss_a),
    four(r.loss_b),
    r.inside ? "inside" : "extrapolates",
  ]);
  const head = [`Budget of ${b}`, `${a} needs`, "interval", `loss of ${a}`, `loss of ${b}`, ""];
  place.replaceChildren(
    make("div", { class: "scroll" }, table(`Compute multiplier of ${a} against ${b} [${comparison.unit}]`, head, rows)),
    make("ul", { class: "notes" }, comparison.warnings.map((w) => make("li", { class: w.severity }, make("b", {}, w.severity), " ", pageWords(w.message)))),
  );
}
