// Puts values from the server into the page: text nodes and attributes only, never markup.

import { replaceContent } from "./fragment.js";
import { lineRow } from "./line.js";

const SVG = "http://www.w3.org/2000/svg";
/** The path below which this site is, where a proxy puts it below one: it goes before every address from the server. */
export const base = document.body.dataset.base ?? "";
let ahead = 0; // Milliseconds by which the server's clock is ahead of this one.

/** Sets this page's clock by the server's. */
export function setClock(serverMillis) {
  if (serverMillis > 0) ahead = serverMillis - Date.now();
}

/** Milliseconds since 1970 by the server's clock. */
export function now() {
  return Date.now() + ahead;
}

/** `1m12s`: the two largest units that matter; a running duration counts in whole seconds. */
export function lasted(millis, goesOn) {
  const ms = Math.max(0, Math.floor(millis));
  const s = Math.floor(ms / 1000);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 1 && !goesOn) return `${ms}ms`;
  if (s < 10 && !goesOn) return `${s}.${Math.floor((ms % 1000) / 100)}s`;
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h${two(Math.floor(s / 60) % 60)}m`;
  return `${Math.floor(s / 86400)}d${two(Math.floor(s / 3600) % 24)}h`;
}

/** `3m ago`. */
export function ago(then) {
  const s = Math.floor(Math.abs(now() - then) / 1000);
  if (s < 1) return "now";
  const coarse = s < 60 ? `${s}s` : s < 3600 ? `${Math.floor(s / 60)}m` : s < 86400 ? `${Math.floor(s / 3600)}h` : `${Math.floor(s / 86400)}d`;
  return then > now() ? `in ${coarse}` : `${coarse} ago`;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function clock(node) {
  const from = Number(node.dataset.from || 0);
  const to = Number(node.dataset.to || 0);
  if (node.dataset.as === "age") setText(node, from ? ago(from) : "—");
  else setText(node, from ? lasted((to || now()) - from, !to) : "—");
}

/** Lets all times of the page go on. */
export function tick() {
  for (const node of document.querySelectorAll('[data-as="age"], [data-as="since"]:not([data-to])')) clock(node);
}

const kinds = {
  text: (node, value) => setText(node, value === null || value === undefined || value === "" ? "—" : String(value)),
  bare: (node, value) => setText(node, value === null || value === undefined ? "" : String(value)),
  state(node, value) {
    node.dataset.s = value;
    node.querySelector("use").setAttribute("href", `#g-${value}`);
    const word = node.querySelector(".word");
    if (word) setText(word, value);
    else node.setAttribute("aria-label", value);
  },
  tick(node, value) {
    node.dataset.done = value;
    node.querySelector("use").setAttribute("href", value ? "#g-completed" : "#g-offline");
    setText(node.querySelector(".vh"), value ? "done" : "to do");
  },
  outcome(node, value) {
    node.dataset.s = value;
    setText(node, value);
  },
  tone: (node, value) => { node.dataset.s = value; },
  age(node, value) {
    node.dataset.from = value ?? "";
    if (value) {
      node.dateTime = new Date(value).toISOString();
      node.title = new Date(value).toLocaleString();
    }
    clock(node);
  },
  since(node, value) {
    node.dataset.from = value.from ?? "";
    if (value.to) node.dataset.to = value.to;
    else delete node.dataset.to;
    clock(node);
  },
  show: (node, value) => { node.hidden = !value; },
  value: (node, value) => { node.value = value; },
  x: (node, value) => node.setAttribute("x", value),
  width: (node, value) => node.setAttribute("width", value),
  segments(node, value) {
    node.replaceChildren(...value.map(([name, x, width]) => {
      const rect = document.createElementNS(SVG, "rect");
      rect.setAttribute("class", name);
      rect.setAttribute("x", x);
      rect.setAttribute("width", width);
      rect.setAttribute("height", "6");
      return rect;
    }));
  },
  marks(node, value) {
    node.replaceChildren(...value.map((label) => {
      const mark = document.createElement("span");
      mark.className = "label";
      mark.textContent = label;
      return mark;
    }));
  },
  labels(node, value) {
    node.replaceChildren(...value.map((label) => {
      const link = document.createElement("a");
      link.className = "label";
      link.href = `${base}/jobs?label=${encodeURIComponent(label)}`;
      link.textContent = label;
      link.title = label;
      return link;
    }));
  },
};

kinds.picture = (node, value) => replaceContent(node, value, base);

kinds.excerpt = (node, value) => {
  node.hidden = value.lines.length === 0;
  node.replaceChildren(...value.lines.map(([number, line]) => lineRow(line, number, base + value.href)));
};

function fillOne(node, data) {
  const key = node.dataset.f;
  if (key in data) (kinds[node.dataset.as || "text"] || kinds.text)(node, data[key]);
}

/** Fills every element of `root` whose `data-f` names a value in `data`; not those of rows, which have values of their own. */
export function fill(root, data) {
  const row = root.closest?.("[data-key]") ?? null;
  for (const node of root.querySelectorAll("[data-f]")) if (node.closest("[data-key]") === row) fillOne(node, data);
  for (const node of root.querySelectorAll("[data-to-href]")) {
    const href = data[node.dataset.toHref];
    // Paths of this site only, whatever happens.
    if (typeof href === "string" && /^\/(?!\/)/.test(href)) node.setAttribute("href", base + href);
  }
  for (const node of root.querySelectorAll("[data-to-title]")) {
    const title = data[node.dataset.toTitle];
    if (title !== undefined && title !== null) node.title = String(title);
  }
}
