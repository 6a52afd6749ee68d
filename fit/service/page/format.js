// Format numbers as the command line and the report do.

const UNITS = [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]];
const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** A large number in three digits at most: 1e18, 5.76e23. */
export function power(value) {
  const [mantissa, exponent] = value.toExponential(2).split("e");
  return `${mantissa.replace(/\.?0+$/, "")}e${Number(exponent)}`;
}

/** Three significant digits, without an exponent between 0.001 and 10,000. */
export function three(value) {
  if (value === 0 || !Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e4) return power(value);
  const rounded = Math.abs(Number(value.toExponential(2)));
  return value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(rounded))));
}

/** A count with three digits and a unit: 9.47e7 is 94.7M; a power from 1e15 on. */
export function short(count) {
  if (!Number.isFinite(count)) return count > 0 ? "unbounded" : "none";
  for (const [unit, factor] of UNITS) {
    if (count >= 0.9995 * factor && count < 0.9995e15) return three(count / factor) + unit;
  }
  return count < 1e3 ? three(count) : power(count);
}

/** A loss with four digits. */
export function four(loss) {
  return loss.toFixed(4);
}

/** A share in percent. */
export function percent(share) {
  return `${Number((100 * share).toPrecision(6))}%`;
}

/** A tick of a log axis: 10¹³. */
export function tick(value) {
  const exponent = Math.round(Math.log10(value));
  const digits = [...String(Math.abs(exponent))].map((d) => SUPERSCRIPT[d]).join("");
  return `10${exponent < 0 ? "⁻" : ""}${digits}`;
}

/** A budget as it is written in the form and in addresses. */
export function typed(flops) {
  return flops.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
}

/** Parse a count as people type it; NaN if it is none. */
export function read(text) {
  const match = /^\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([kKMmBbGgTt]?)\s*$/.exec(text);
  if (!match) return NaN;
  const factor = { k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12 }[match[2].toLowerCase()] ?? 1;
  return Number(match[1].replaceAll("_", "")) * factor;
}
