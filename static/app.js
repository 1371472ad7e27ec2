// Starts what the page needs. Every page is complete without this.

import { fill, setClock, tick } from "./fill.js";
import { listen } from "./keys.js";
import { takeRows } from "./lists.js";
import { connect } from "./live.js";
import { Log } from "./log.js";

const root = document.documentElement;
root.classList.add("js");
setClock(Number(document.body.dataset.now));
tick();
setInterval(tick, 1_000);
listen();

for (const node of document.querySelectorAll("[data-js]")) node.hidden = false;
for (const node of document.querySelectorAll("[data-no-js]")) node.hidden = true;

// A menu closes when something else is wanted.
addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details.menu[open]");
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});

// What was chosen from a list that stands for a page is gone to.
addEventListener("change", (event) => {
  if (event.target.matches("select[data-go]")) event.target.form.requestSubmit();
});

addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  const text = document.getElementById(button.dataset.copy)?.textContent ?? "";
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // Without https there may be no clipboard; the text can still be marked.
    getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
    button.textContent = "Press Ctrl C";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2_000);
});

addEventListener("submit", (event) => {
  const question = event.target.dataset.ask;
  if (question && !confirm(question)) event.preventDefault();
});

const viewer = document.querySelector("[data-log]");
const log = viewer ? new Log(viewer) : null;
const live = document.querySelector("[data-live]");
if (live) {
  connect(() => (log ? log.address(live.dataset.live) : live.dataset.live), {
    fields(data) {
      fill(document, data);
      if (data.title) document.title = data.title;
    },
    rows: takeRows,
    window: (data) => log?.take(data),
    end: () => log?.finished(),
  });
}
