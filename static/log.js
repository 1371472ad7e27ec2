// The output viewer: at most a few hundred rows in the document, whatever the output has.
//
// Either it follows: then the rows are the newest window that the server sent. Or it stays where the reader is: then
// rows are fetched when the edge of the loaded part comes into sight.

import { lasted, setText } from "./fill.js";
import { lineRow, markRow } from "./line.js";

const MAX_ROWS = 480;
const PAGE = 200;
const EDGE = 600; // Distance in pixels from the end of the loaded part at which the next part is fetched.

export class Log {
  constructor(card) {
    this.card = card;
    this.box = card.querySelector(".log");
    this.rows = card.querySelector(".rows");
    this.attempt = Number(card.dataset.attempt || 0);
    this.total = Number(card.dataset.total || 0); // Lines that have ended.
    this.open = card.dataset.open === "true"; // One more has begun.
    this.follows = card.dataset.follow === "true";
    this.isLive = card.dataset.isLive === "true";
    this.only = card.dataset.only || ""; // One stream, or both.
    this.seen = this.follows ? this.total : 0; // The last line that was looked at, shown or not.
    this.started = 0;
    this.times = 0;
    this.placed = -9;
    this.unfolded = new Set();
    this.pending = null;
    this.busy = false;
    this.rate = [];
    this.ui = {};
    for (const node of card.querySelectorAll("[data-ui]")) this.ui[node.dataset.ui] = node;
    for (const row of this.rows.children) markRow(row);
    this.started = Number(this.rows.firstElementChild?.dataset.at || 0);
    this.bind();
    this.fold();
    if (this.follows) this.toEnd();
    this.goToHash();
    this.tell();
  }

  /** Where the stream continues: after the last complete line. */
  address(url) {
    const at = new URL(url, location.href);
    if (this.attempt) at.searchParams.set("has", `${this.attempt}:${Math.min(this.upto(), this.total)}`);
    return at.pathname + at.search;
  }

  first() { return Number(this.rows.firstElementChild?.dataset.n || 0); }
  last() { return Number(this.rows.lastElementChild?.dataset.n || 0); }
  /** The line up to which everything was looked at: of one stream, others may follow its last one. */
  upto() { return this.only ? Math.max(this.seen, this.last()) : this.last(); }
  isWanted(line) { return !this.only || line.s !== (this.only === "stdout" ? "err" : "out"); }
  count() { return this.total + (this.open ? 1 : 0); }

  bind() {
    this.box.addEventListener("scroll", () => this.scrolled(), { passive: true });
    addEventListener("hashchange", () => this.goToHash());
    this.ui.follow?.addEventListener("click", () => this.followAgain());
    this.ui.more?.addEventListener("click", () => this.followAgain());
    this.ui.wrap?.addEventListener("click", () => {
      const on = this.card.classList.toggle("wrap");
      this.ui.wrap.setAttribute("aria-pressed", String(on));
      if (this.follows) this.toEnd();
    });
    this.ui.times?.addEventListener("click", () => {
      this.times = (this.times + 1) % 4;
      setText(this.ui.times, ["Timestamps", "Elapsed", "Local time", "UTC"][this.times]);
      this.ui.times.setAttribute("aria-pressed", String(this.times > 0));
      for (const row of this.rows.children) this.time(row);
      if (this.follows) this.toEnd();
    });
    this.ui.jump?.addEventListener("submit", (event) => {
      event.preventDefault();
      const line = Number(new FormData(this.ui.jump).get("at"));
      if (line > 0) this.goTo(line);
    });
    this.rows.addEventListener("click", (event) => {
      const fold = event.target.closest(".fold");
      if (fold) {
        const line = Number(fold.closest(".ln").dataset.n);
        if (!this.unfolded.delete(line)) this.unfolded.add(line);
        this.fold();
        return;
      }
      const number = event.target.closest(".no");
      if (!number) return;
      const line = Number(number.parentElement.dataset.n);
      const from = Number(/^#L(\d+)/.exec(location.hash)?.[1] || 0);
      const range = event.shiftKey && from ? `#L${Math.min(from, line)}-L${Math.max(from, line)}` : `#L${line}`;
      history.replaceState(null, "", range);
      this.highlight();
    });
    addEventListener("keydown", (event) => {
      if (event.target.closest?.("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "End" && this.isAround(event)) { event.preventDefault(); this.followAgain(); }
      if (event.key === "Home" && this.isAround(event)) { event.preventDefault(); this.goTo(1); }
      if (event.key === ":" && this.ui.jump) { event.preventDefault(); this.ui.jump.elements.at.focus(); }
    });
  }

  isAround(event) {
    return event.target === document.body || (event.target instanceof Node && this.box.contains(event.target));
  }

  /** Takes the newest window from the stream; only the last one before the next frame is drawn. */
  take(message) {
    if (message.attempt !== this.attempt) {
      this.attempt = message.attempt;
      this.rows.replaceChildren();
      this.seen = 0;
      this.started = 0;
      this.ui.attempt.hidden = false;
      setText(this.ui.attempt, `attempt ${message.attempt}`);
    }
    const grown = message.total - this.total;
    this.total = message.total;
    this.open = message.open;
    this.isLive = true;
    const at = performance.now();
    if (grown > 0) this.rate.push([at, grown]);
    this.rate = this.rate.filter(([when]) => at - when < 2_000);
    if (message.skipped && this.ui.skipped) {
      this.ui.skipped.hidden = false;
      setText(this.ui.skipped, `${message.skipped.toLocaleString("en")} lines skipped; scroll up to read them`);
    }
    const behind = this.pending;
    if (behind && message.from > behind.first && message.from <= behind.from + behind.lines.length) {
      // What was not drawn yet is not sent again: join the two.
      message.lines = behind.lines.slice(0, message.from - behind.from).concat(message.lines);
      message.from = behind.from;
    }
    this.pending = message;
    if (behind) return;
    requestAnimationFrame(() => {
      const newest = this.pending;
      this.pending = null;
      if (this.follows) this.draw(newest);
      else if (this.upto() + 1 >= newest.from && this.rows.childElementCount < MAX_ROWS && this.atEdge()) this.draw(newest, true);
      this.tell();
    });
  }

  draw(message, stays) {
    let from = message.from;
    let lines = message.lines;
    if (from < message.first) {
      lines = lines.slice(message.first - from);
      from = message.first;
    }
    // Rows behind a hole, and those that are about to come anew, make room.
    if (!this.only && this.last() + 1 < from) this.rows.replaceChildren();
    while (this.last() >= from) this.rows.lastElementChild.remove();
    this.append(lines, lines.map((_, at) => from + at));
    this.seen = Math.max(this.seen, from + lines.length - 1);
    if (!stays) {
      while (this.first() < message.first && this.rows.childElementCount > 300) this.rows.firstElementChild.remove();
    }
    this.fold();
    if (!stays) this.toEnd();
  }

  append(lines, numbers) {
    const made = document.createDocumentFragment();
    lines.forEach((line, at) => { if (this.isWanted(line)) made.append(this.row(line, numbers[at])); });
    this.rows.append(made);
  }

  row(line, number) {
    const row = lineRow(line, number);
    row.id = `L${number}`;
    if (!this.started) this.started = line.at;
    if (this.times) this.time(row);
    markRow(row);
    return row;
  }

  /** A group is folded once its end is loaded, unless somebody opened it. */
  fold() {
    let head = null;
    let inside = [];
    const close = (ended) => {
      if (!head) return;
      const open = !ended !== this.unfolded.has(Number(head.dataset.n));
      head.querySelector(".fold")?.setAttribute("aria-expanded", String(open));
      for (const row of inside) row.classList.toggle("folded", !open);
      head = null;
      inside = [];
    };
    for (const row of this.rows.children) {
      if (row.classList.contains("group")) { close(true); head = row; }
      else if (row.classList.contains("endgroup")) close(true);
      else if (head) inside.push(row);
      else row.classList.remove("folded");
    }
    close(false);
  }

  time(row) {
    let node = row.querySelector(".when");
    if (!this.times) return node?.remove();
    if (!node) {
      node = document.createElement("span");
      node.className = "when";
      row.querySelector(".no").after(node);
    }
    const at = Number(row.dataset.at);
    const local = new Date(at - new Date(at).getTimezoneOffset() * 60_000).toISOString();
    const text = [null, `+${lasted(at - this.started)}`.padStart(9), local.slice(11, 23), new Date(at).toISOString().slice(11, 23) + "Z"][this.times];
    setText(node, text);
  }

  toEnd() {
    this.place(this.box.scrollHeight);
  }

  /** Scrolls, and remembers where to: any other place is one that the reader chose. */
  place(top) {
    this.box.scrollTop = top;
    this.placed = this.box.scrollTop;
  }

  atEdge() {
    return this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < EDGE;
  }

  scrolled() {
    if (Math.abs(this.box.scrollTop - this.placed) < 3) return;
    this.placed = -9;
    const fromEnd = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight;
    const atEnd = fromEnd < 4 && this.upto() >= this.total;
    if (this.follows !== atEnd) {
      this.follows = atEnd;
      this.tell();
    }
    if (this.follows || this.busy) return;
    if (this.box.scrollTop < EDGE && this.first() > 1) this.load({ before: this.first() }, "before");
    else if (fromEnd < EDGE && this.upto() < this.count()) this.load({ from: this.upto() + (this.upto() > this.total ? 0 : 1) }, "after");
  }

  /** Lines from one on, before one, or the last ones; with the number of each. */
  async fetch(where, count = PAGE) {
    const url = new URL(this.card.dataset.lines, location.href);
    url.searchParams.set("attempt", this.attempt);
    url.searchParams.set("count", where.before && !this.only ? Math.min(count, where.before - 1) : count);
    for (const [name, line] of Object.entries(where)) url.searchParams.set(name, line);
    if (this.only) url.searchParams.set("stream", this.only);
    const answer = await fetch(url, { headers: { accept: "application/json" } });
    if (!answer.ok) throw new Error(String(answer.status));
    const found = await answer.json();
    found.numbers ||= found.lines.map((_, at) => found.first + at);
    return found;
  }

  async load(where, side) {
    this.busy = true;
    try {
      const found = await this.fetch(where);
      if (found.attempt !== this.attempt) return;
      this.total = Math.max(this.total, found.total);
      // Of one stream there may be no more.
      if (this.only && side === "after" && found.lines.length < PAGE) this.seen = found.total;
      if (!found.lines.length) return;
      const height = this.box.scrollHeight;
      if (side === "before") {
        const known = this.first();
        const made = document.createDocumentFragment();
        found.lines.forEach((line, at) => { if (found.numbers[at] < known) made.append(this.row(line, found.numbers[at])); });
        this.rows.prepend(made);
        this.fold();
        this.box.scrollTop += this.box.scrollHeight - height;
        while (this.rows.childElementCount > MAX_ROWS) this.rows.lastElementChild.remove();
      } else {
        while (this.last() >= found.numbers[0]) this.rows.lastElementChild.remove();
        this.append(found.lines, found.numbers);
        this.fold();
        const before = this.box.scrollHeight;
        while (this.rows.childElementCount > MAX_ROWS) this.rows.firstElementChild.remove();
        this.box.scrollTop -= before - this.box.scrollHeight;
      }
      this.highlight();
    } catch {
      this.ui.note.hidden = false;
      setText(this.ui.note, "Cannot load these lines; scroll to retry.");
      return;
    } finally {
      this.busy = false;
      this.tell();
    }
    if (this.ui.note) this.ui.note.hidden = true;
  }

  /** Goes to a line, loaded or not. */
  async goTo(line, last = line) {
    const wanted = Math.max(1, Math.min(line, Math.max(1, this.count())));
    this.follows = false;
    if (!document.getElementById(`L${wanted}`)) {
      const found = await this.fetch({ from: Math.max(1, wanted - 100) }, 300).catch(() => null);
      if (!found) return;
      this.total = Math.max(this.total, found.total);
      this.rows.replaceChildren();
      this.seen = 0;
      this.append(found.lines, found.numbers);
    }
    if (line === wanted && `#L${line}` !== location.hash.split("-")[0]) history.replaceState(null, "", last > line ? `#L${line}-L${last}` : `#L${line}`);
    this.fold();
    const row = document.getElementById(`L${wanted}`);
    if (row?.classList.contains("folded")) {
      let head = row;
      while (head && !head.classList.contains("group")) head = head.previousElementSibling;
      if (head) this.unfolded.add(Number(head.dataset.n));
      this.fold();
    }
    this.highlight();
    if (row) {
      this.place(row.offsetTop - this.box.clientHeight / 3);
    }
    this.tell();
  }

  goToHash() {
    const range = /^#L(\d{1,15})(?:-L(\d{1,15}))?$/.exec(location.hash);
    if (range) this.goTo(Number(range[1]), Number(range[2] || range[1]));
  }

  highlight() {
    const range = /^#L(\d{1,15})(?:-L(\d{1,15}))?$/.exec(location.hash);
    for (const row of this.rows.querySelectorAll(".marked")) row.classList.remove("marked");
    if (!range) return;
    const last = Math.min(Number(range[2] || range[1]), this.last());
    for (let line = Math.max(Number(range[1]), this.first()); line <= last; line++) document.getElementById(`L${line}`)?.classList.add("marked");
  }

  async followAgain() {
    if (this.upto() < this.total) {
      const where = this.only ? {} : { from: Math.max(1, this.count() - 299) };
      const found = await this.fetch(where, 300).catch(() => null);
      if (found) {
        this.total = Math.max(this.total, found.total);
        this.rows.replaceChildren();
        this.append(found.lines, found.numbers);
        this.seen = found.total;
        this.fold();
      }
    }
    this.follows = true;
    this.toEnd();
    this.tell();
  }

  finished() {
    this.isLive = false;
    this.tell();
  }

  tell() {
    const many = (n) => n.toLocaleString("en");
    const shown = this.rows.childElementCount ? `lines ${many(this.first())}–${many(this.last())} of ${many(this.count())}` : "no output";
    if (this.ui.shown) setText(this.ui.shown, shown);
    if (this.ui.rate) {
      const seconds = this.rate.length > 1 ? (performance.now() - this.rate[0][0]) / 1_000 : 0;
      const rate = seconds > 0.3 ? Math.round(this.rate.reduce((sum, [, lines]) => sum + lines, 0) / seconds) : 0;
      this.ui.rate.hidden = !(this.isLive && rate > 50);
      setText(this.ui.rate, `${many(rate)} lines/s`);
    }
    if (this.ui.empty) this.ui.empty.hidden = this.rows.childElementCount > 0;
    this.box.hidden = this.rows.childElementCount === 0;
    if (this.ui.follow) {
      this.ui.follow.hidden = !this.isLive;
      this.ui.follow.setAttribute("aria-pressed", String(this.follows));
    }
    if (this.ui.more) {
      const below = this.count() - this.upto();
      this.ui.more.parentElement.hidden = this.follows || below <= 0;
      setText(this.ui.more, this.isLive ? `↓ ${many(below)} more · follow` : `↓ ${many(below)} more · to the end`);
    }
  }
}
