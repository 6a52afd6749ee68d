// Format numbers as the command line and the report do.

const UNITS = [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]];
const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** What stands for null: JSON has no infinite number and none that is not determined. */
export const UNKNOWN = "not determined";

/** A form of numbers that also takes null and infinity. */
function total(form) {
  return (value) => {
    if (value == null || Number.isNaN(value)) return UNKNOWN;
    return Number.isFinite(value) ? form(value) : value > 0 ? "unbounded" : "none";
  };
}

/** A large number in three digits at most: 1e18, 5.76e23. */
export const power = total((value) => {
  const [mantissa, exponent] = value.toExponential(2).split("e");
  return `${mantissa.replace(/\.?0+$/, "")}e${Number(exponent)}`;
});

/** Three significant digits, without an exponent between 0.001 and 10,000. */
export const three = total((value) => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e4) return power(value);
  const rounded = Math.abs(Number(value.toExponential(2)));
  return value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(rounded))));
});

/** A count with three digits and a unit: 9.47e7 is 94.7M; a power from 1e15 on. */
export const short = total((count) => {
  for (const [unit, factor] of UNITS) {
    if (count >= 0.9995 * factor && count < 0.9995e15) return three(count / factor) + unit;
  }
  return count < 1e3 ? three(count) : power(count);
});

/** A loss with four decimals; as a power where these would hide it. */
export const four = total((loss) => {
  const size = Math.abs(loss);
  return loss !== 0 && (size < 5e-5 || size >= 1e5) ? power(loss) : loss.toFixed(4);
});

/** A share in percent. */
export const percent = total((share) => `${Number((100 * share).toPrecision(6))}%`);

/** A number as it is, such as a width. */
export const whole = total(String);

/** An amount of money or hours: 1,234 or 0.0123. */
export const amount = total((value) => (value >= 1e3 && value < 1e12 ? Math.round(value).toLocaleString("en") : three(value)));

/** An interval in brackets. Nothing where there is none, or where it has no width; an end that is open is infinite. */
export function ends({ value, low, high }, form) {
  if (low == null && high == null) return "";
  const words = [low == null ? "−∞" : form(low), value == null ? "" : form(value), high == null ? "∞" : form(high)];
  return new Set(words).size === 1 ? "" : ` [${words[0]}, ${words[2]}]`;
}

/** A difference with its sign and its interval, which changes its sign with it. */
export function change({ value, low = null, high = null }, form, sign = 1) {
  const turned = (v) => (v == null ? null : sign * v);
  const words = (v) => (v === 0 ? "0" : `${v < 0 ? "−" : "+"}${form(Math.abs(v))}`);
  if (value == null) return UNKNOWN;
  const [from, to] = sign < 0 ? [high, low] : [low, high];
  return words(turned(value)) + ends({ value: turned(value), low: turned(from), high: turned(to) }, words);
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

/** A budget with all its digits: one rounded up would lie beyond what it was chosen for. */
export function exact(flops) {
  return flops.toExponential().replace("e+", "e");
}

/** Parse a bare number of FLOP, for the slider; NaN of a budget in words, which the service reads. */
export function read(text) {
  const match = /^\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([kKMmBbGgTt]?)\s*$/.exec(text);
  if (!match) return NaN;
  const factor = { k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12 }[match[2].toLowerCase()] ?? 1;
  return Number(match[1].replaceAll("_", "")) * factor;
}
