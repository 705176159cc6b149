"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const isMissing = (value) => value === null || value === undefined;

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

// A variant is its number everywhere: that of its line as the table was written.
const table = (() => {
  const heads = [...document.querySelectorAll("#table th[data-key]")];
  const body = byId("table").tBodies[0];
  const lines = [...body.rows];
  const buttons = lines.map((line) => line.querySelector("button"));
  const indexOf = new Map(data.columns.map(([key], index) => [key, index]));
  let texts = null;
  let order = { key: null, isDown: false };
  let reachable = 0; // of all rows, Tab goes to this one and arrow keys to the others

  const cellText = (row, key) => lines[row].cells[indexOf.get(key)]?.textContent ?? "";

  const sort = (key) => {
    const isNumeric = data.columns[indexOf.get(key)][2];
    order = { key, isDown: order.key === key ? !order.isDown : isNumeric };
    const values = data.values[key];
    const sign = order.isDown ? -1 : 1;
    const sorted = lines.map((_, row) => row).sort((one, other) => {
      const [a, b] = [values[one], values[other]];
      if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b) || one - other;
      const compared = isNumeric ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
      return sign * compared || one - other;
    });
    body.replaceChildren(...sorted.map((row) => lines[row]));
    for (const head of heads) {
      const isKey = head.dataset.key === key;
      head.setAttribute("aria-sort", isKey ? (order.isDown ? "descending" : "ascending") : "none");
    }
  };

  const matching = (words) => {
    texts ??= lines.map((line) => [...line.cells].map((cell) => cell.textContent).join(" ").toLowerCase());
    return texts.map((text) => words.every((word) => text.includes(word)));
  };

  const reach = (row) => {
    buttons[reachable].tabIndex = -1;
    buttons[row].tabIndex = 0;
    reachable = row;
  };

  const shownInOrder = () => [...body.rows].filter((line) => !line.hidden).map((line) => Number(line.dataset.row));

  const show = (isShown) => {
    lines.forEach((line, row) => { line.hidden = !isShown[row]; });
    const shown = shownInOrder();
    if (shown.length && !isShown[reachable]) reach(shown[0]);
    return shown.length;
  };

  const mark = (row) => {
    for (const line of lines) line.removeAttribute("aria-current");
    lines[row].setAttribute("aria-current", "true");
    reach(row);
  };

  const moves = { ArrowDown: (at) => at + 1, ArrowUp: (at) => at - 1, Home: () => 0, End: () => Infinity };
  body.addEventListener("keydown", (event) => {
    if (!(event.key in moves) || event.target.tagName !== "BUTTON") return;
    event.preventDefault();
    const shown = shownInOrder();
    const at = moves[event.key](shown.indexOf(reachable));
    reach(shown[Math.max(0, Math.min(shown.length - 1, at))]);
    buttons[reachable].focus();
  });
  for (const head of heads) head.querySelector("button").addEventListener("click", () => sort(head.dataset.key));
  for (const button of buttons) button.tabIndex = -1;
  buttons[reachable].tabIndex = 0;

  return {
    matching, show, mark, cellText, size: lines.length,
    has: (key) => indexOf.has(key),
    whenChosen: (choose) => body.addEventListener("click", (event) => {
      const line = event.target.closest("tr");
      if (line && !String(window.getSelection())) choose(Number(line.dataset.row));
    }),
  };
})();
