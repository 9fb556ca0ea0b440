// Small helpers. Texts always become text nodes: nothing here or elsewhere makes HTML of a string.

const byId = (id) => document.getElementById(id);

/** An element with properties, and children that are nodes or texts. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  assign(element, properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets properties: `class`, `style` variables, `data`, attributes with a dash or of ARIA, else properties. */
function assign(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "class") element.className = value;
    else if (name === "style") Object.entries(value).forEach(([key, v]) => element.style.setProperty(key, v));
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
}

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element with attributes. */
function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const list = (words) =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}`;
/** A text in one line, without the names of special tokens. */
const plain = (text) => text.replace(/<\|[^|]*\|>/g, " ").replace(/\s+/g, " ").trim();
