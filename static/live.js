// The page's one stream of changes, open only while somebody looks, and the chip that tells how it is.

import { setClock } from "./fill.js";

const STALE_AFTER = 25_000;
const RETRY_AFTER = [500, 1_000, 2_000, 4_000, 8_000];

/**
 * Opens the stream and keeps it open. `url()` gives its address, with where to go on; `handlers` takes the events by
 * name, with their data.
 */
export function connect(url, handlers) {
  const chips = document.querySelectorAll("[data-chip]");
  let source = null;
  let tries = 0;
  let heard = Date.now();
  let timer = 0;
  let over = false;

  const say = (state, text) => {
    for (const chip of chips) {
      chip.dataset.c = state;
      if (chip.textContent !== text) chip.textContent = text;
      chip.hidden = false;
    }
  };
  const on = (name, take) => source.addEventListener(name, (event) => {
    heard = Date.now();
    tries = 0;
    if (!over) say("live", "live");
    if (take) take(event.data ? JSON.parse(event.data) : null);
  });
  const open = () => {
    clearTimeout(timer);
    if (source || over || document.hidden) return;
    source = new EventSource(url());
    heard = Date.now();
    on("beat", (beat) => setClock(beat?.now ?? 0));
    for (const [name, take] of Object.entries(handlers)) if (name !== "end") on(name, take);
    source.addEventListener("end", (event) => {
      over = true;
      close();
      say("finished", "finished");
      handlers.end?.(event.data ? JSON.parse(event.data) : null);
    });
    source.onerror = (event) => {
      close();
      if (over) return;
      if (event.data) {
        // The server's last words: the session has ended.
        over = true;
        say("stale", "signed out");
        return;
      }
      say("reconnecting", "reconnecting");
      timer = setTimeout(open, RETRY_AFTER[Math.min(tries++, RETRY_AFTER.length - 1)] * (0.5 + Math.random()));
    };
  };
  const close = () => {
    source?.close();
    source = null;
  };
  document.addEventListener("visibilitychange", () => {
    // A browser gives one site few connections: a tab that nobody sees keeps none.
    if (document.hidden) close();
    else open();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  setInterval(() => {
    if (!source || over || Date.now() - heard < STALE_AFTER) return;
    say("stale", `stale since ${new Date(heard).toLocaleTimeString()}`);
    close();
    open();
  }, 5_000);
  open();
}
