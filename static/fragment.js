// The only place that makes elements of markup: of a part of a page, which the server has made by the template of the whole page.

/** Puts a part of a page in the place of what `node` shows. `base` goes before its addresses. */
export function replaceContent(node, markup, base) {
  const made = new DOMParser().parseFromString(markup, "text/html");
  for (const link of made.querySelectorAll("a[href]")) link.setAttribute("href", base + link.getAttribute("href"));
  const focused = node.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const places = [...node.querySelectorAll(".picture, .table")].map((box) => [box.scrollLeft, box.scrollTop]);
  node.replaceChildren(...made.body.childNodes);
  // A reader stays where they have scrolled to.
  node.querySelectorAll(".picture, .table").forEach((box, at) => box.scrollTo(...(places[at] ?? [0, 0])));
  if (focused) [...node.querySelectorAll("a[href]")].find((link) => link.getAttribute("href") === focused)?.focus();
}
