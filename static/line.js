// One line of output as a row: text nodes with the looks that the server found.

const MARKS = [["::group::", "group"], ["::endgroup::", "endgroup"], ["::error", "error"], ["::warning", "warning"], ["::notice", "notice-mark"], ["[command]", "command"]];

/** A row for a line `{s: origin, at: millis, t: [[class, text, href?], …]}`; its number leads to it on the page `page`, if given. */
export function lineRow(line, number, page) {
  const row = document.createElement("div");
  row.className = `ln ${line.s}`;
  row.dataset.n = number;
  row.dataset.at = line.at;
  // Hundreds of links would be hundreds of stops for the keyboard: in the viewer, numbers are clicked or jumped to.
  const no = document.createElement(page ? "a" : "span");
  no.className = "no";
  if (page) no.href = `${page}#L${number}`;
  no.textContent = number;
  if (line.s !== "out") no.title = line.s === "err" ? "stderr" : "stdout and stderr";
  const text = document.createElement("span");
  text.className = "tx";
  for (const [look, content, href] of line.t) {
    let node = document.createTextNode(content);
    if (href && /^https?:\/\//i.test(href)) {
      const link = document.createElement("a");
      link.href = href;
      link.rel = "noopener noreferrer nofollow";
      link.target = "_blank";
      link.className = look;
      link.append(node);
      node = link;
    } else if (look) {
      const span = document.createElement("span");
      span.className = look;
      span.append(node);
      node = span;
    }
    text.append(node);
  }
  row.append(no, text);
  return row;
}

/** Marks a row that means something to viewers of output: a group or an annotation. */
export function markRow(row) {
  const content = row.querySelector(".tx");
  const text = content.textContent;
  if (text[0] !== ":" && text[0] !== "[") return;
  const mark = MARKS.find(([prefix]) => text.startsWith(prefix))?.[1];
  if (!mark) return;
  row.classList.add(mark);
  if (mark === "group") {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "fold";
    button.textContent = text.slice(9) || "group";
    content.replaceChildren(button);
  } else if (mark !== "command") {
    const end = text.indexOf("::", 2);
    if (end > 0) content.replaceChildren(`${mark === "error" ? "✕ " : "! "}${text.slice(end + 2)}`);
  }
}
