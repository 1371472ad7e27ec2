// The keyboard: g j, g w, /, ?, j k, Enter, and x never surprises anybody who is typing.

import { base } from "./fill.js";

const places = { h: "/", j: "/jobs", w: "/workers", k: "/keys", e: "/events", n: "/jobs/new" };
let after = "";
let at = -1;

function rows() {
  return [...document.querySelectorAll("[data-list] > [data-key]")].filter((row) => row.querySelector("a[href]") && row.offsetParent);
}

function choose(step) {
  const all = rows();
  if (!all.length) return;
  const present = all.findIndex((row) => row.classList.contains("chosen"));
  all[present]?.classList.remove("chosen");
  at = Math.max(0, Math.min(all.length - 1, (present < 0 ? at : present) + step));
  all[at].classList.add("chosen");
  all[at].querySelector("a[href]").focus({ preventScroll: true });
  all[at].scrollIntoView({ block: "nearest" });
}

/** Listens from now on. */
export function listen() {
  const help = document.getElementById("keyboard-help");
  for (const button of document.querySelectorAll("[data-help]")) {
    button.hidden = false;
    button.addEventListener("click", () => help.showModal());
  }
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input:not([type=radio]):not([type=checkbox]), textarea, select, [contenteditable]");
    if (event.defaultPrevented || typing || event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (after === "g" && places[event.key]) {
      event.preventDefault();
      location.assign(base + places[event.key]);
    } else if (event.key === "/") {
      const search = document.querySelector("[data-search]");
      if (!search) return;
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "?") help.showModal();
    else if (event.key === "j") choose(1);
    else if (event.key === "k") choose(-1);
    after = event.key === "g" && after !== "g" ? "g" : "";
    if (after) setTimeout(() => { after = ""; }, 1_200);
  });
}
