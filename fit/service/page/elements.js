// Build elements from values; text is inserted as text, never as markup.

export const find = (selector) => document.querySelector(selector);

/** An element with attributes and children. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value != null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((c) => c != null));
  return element;
}

/** A formatted number with its exact value as an attribute. */
export function datum(value, text, name) {
  return make("data", { value: String(value), "data-name": name }, text);
}

/** A table with a caption for screen readers. */
export function table(caption, head, rows) {
  return make("table", {},
    make("caption", { class: "visually-hidden" }, caption),
    make("thead", {}, make("tr", {}, head.map((h) => make("th", { scope: "col" }, h)))),
    make("tbody", {}, rows.map((row) => make("tr", {}, row.map((c) => make("td", {}, c))))));
}

/** Let the browser save a file. */
export function save(name, content, type) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = make("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A message as a sentence of its own, which begins with no name of a field: max_params is Max params. */
export function sentenceCase(message) {
  return message[0].toUpperCase() + message.slice(1).replace(/^[a-z]*(_[a-z]+)+/, (name) => name.replaceAll("_", " "));
}

/** Show an error in an element, or hide it. */
export function fault(element, message) {
  element.hidden = !message;
  element.textContent = message ? sentenceCase(message) : "";
}
