// Elements from values: text is always text, never markup.

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

/** A number that people read, with the exact one behind it. */
export function datum(value, text, name) {
  return make("data", { value: String(value), "data-name": name }, text);
}

/** A table of rows under a head. */
export function table(caption, head, rows) {
  return make("table", {},
    make("caption", { class: "unseen" }, caption),
    make("thead", {}, make("tr", {}, head.map((h) => make("th", { scope: "col" }, h)))),
    make("tbody", {}, rows.map((row) => make("tr", {}, row.map((c) => make("td", {}, c))))));
}

/** Give a file to the reader. */
export function save(name, content, type) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = make("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Show an error where it belongs, or take it away. */
export function fault(element, message) {
  element.hidden = !message;
  element.textContent = message ?? "";
}
