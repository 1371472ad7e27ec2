// Keeps lists up to date: known rows change in place; new ones wait behind a button, or flow in where nobody points.

import { fill } from "./fill.js";

const waiting = new WeakMap();

function rowOf(list, key) {
  for (const row of list.children) if (row.dataset.key === key) return row;
  return null;
}

function make(list, row) {
  const template = document.getElementById(list.dataset.template);
  const element = template.content.firstElementChild.cloneNode(true);
  element.dataset.key = row.key;
  element.classList.add("fresh");
  fill(element, row);
  return element;
}

function showWaiting(list) {
  const rows = waiting.get(list);
  const bar = document.querySelector(`[data-waiting="${list.dataset.list}"]`);
  if (!bar) return;
  bar.hidden = rows.size === 0;
  bar.querySelector("button").textContent = `${rows.size} new ↑`;
}

function letIn(list) {
  const rows = waiting.get(list);
  const made = [...rows.values()].map((row) => make(list, row));
  rows.clear();
  list.prepend(...made);
  while (list.children.length > 500) list.lastElementChild.remove();
  showWaiting(list);
  showWhether(list, list.children.length > 0);
}

/** Shows what belongs to a list with rows in it, or to one without. */
function showWhether(list, full) {
  for (const node of document.querySelectorAll(`[data-when-empty="${list.dataset.list}"]`)) node.hidden = full;
  for (const node of document.querySelectorAll(`[data-when-full="${list.dataset.list}"]`)) node.hidden = !full;
}

function hold(list, message) {
  if (!waiting.has(list)) {
    waiting.set(list, new Map());
    document.querySelector(`[data-waiting="${list.dataset.list}"] button`)?.addEventListener("click", () => {
      letIn(list);
    });
  }
  const rows = waiting.get(list);
  for (const row of message.rows) {
    const present = rowOf(list, row.key);
    if (present) fill(present, row);
    else if (message.fresh) {
      rows.delete(row.key);
      // The newest is the first.
      const older = [...rows];
      rows.clear();
      rows.set(row.key, row);
      for (const [key, value] of older) rows.set(key, value);
    } else if (rows.has(row.key)) rows.set(row.key, row);
  }
  // In an empty list there is nothing that a new row could push away.
  if (list.children.length === 0) letIn(list);
  else showWaiting(list);
}

function flow(list, message) {
  for (const row of message.rows) {
    const present = rowOf(list, row.key);
    if (present) fill(present, row);
    else list.append(make(list, row));
  }
  if (!message.order) return;
  const arrange = () => {
    const wanted = new Set(message.order);
    for (const row of [...list.children]) if (!wanted.has(row.dataset.key)) row.remove();
    message.order.forEach((key, at) => {
      const row = rowOf(list, key);
      if (row && list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
    });
    list.arrange = null;
    showWhether(list, message.order.length > 0);
  };
  // Nothing moves under the pointer or the focus.
  if (!list.matches(":hover, :focus-within")) return arrange();
  if (!list.arrange) list.addEventListener("pointerleave", () => list.arrange?.(), { once: true });
  list.arrange = arrange;
}

/** Takes rows for the list that they are for. */
export function takeRows(message) {
  const list = document.querySelector(`[data-list="${message.list}"]`);
  if (!list) return;
  if (list.dataset.mode === "flow") flow(list, message);
  else hold(list, message);
}
