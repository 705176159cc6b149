// How the parts are linked: one filter, one selection, one chosen variant.
(() => {
  let brushed = null; // variants that were dragged over, or null for all
  let chosen = 0;
  let isPending = false;

  const update = () => {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = table.matching(words);
    const number = table.show(matches.map((isMatch, row) => isMatch && (brushed === null || brushed.has(row))));
    scatter.show(matches);
    byId("count").textContent = `${number} of ${table.size} variant${table.size === 1 ? "" : "s"}`;
    byId("clear").disabled = words.length === 0 && brushed === null;
  };

  // dragging reports every move; the table follows once a frame
  const select = (rows) => {
    brushed = rows;
    if (isPending) return;
    isPending = true;
    requestAnimationFrame(() => { isPending = false; update(); });
  };

  const drawScatter = () => {
    const cost = data.costs[Number(byId("cost").value)];
    if (cost) return scatter.redraw(cost, byId("colour").value, select);
    byId("scatter").textContent = "No costs are known of these variants.";
    return null;
  };

  const choose = (row, { link = true, go = true } = {}) => {
    chosen = row;
    table.mark(row);
    scatter.mark(row);
    const drawn = detail.show(row);
    if (link) history.replaceState(null, "", linkTo(row));
    if (go) {
      byId("variant-heading").focus({ preventScroll: true });
      const isStill = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
      byId("variant").scrollIntoView({ behavior: isStill ? "auto" : "smooth", block: "nearest" });
    }
    return drawn;
  };

  const linkTo = (row) => `#variant=${encodeURIComponent(data.hash[row])}`;
  const linked = () => data.hash.findIndex((_, row) => linkTo(row) === location.hash);

  const tell = (found) => {
    const tip = byId("tip");
    tip.hidden = found === null;
    if (!found) return;
    const cost = data.costs[Number(byId("cost").value)];
    const lines = [["top-1 (%)", table.cellText(found.row, "test_top1_percent")], [cost.label, Number(cost.x[found.row].toPrecision(3))]];
    if (table.has("verdict")) lines.push(["verdict", table.cellText(found.row, "verdict")]);
    tip.replaceChildren(element("b", {}, data.name[found.row]),
      ...lines.filter(([, text]) => text !== "").map(([label, text]) => element("span", {}, `${label}: ${text}`)));
    const left = Math.min(found.x + 14, document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.setProperty("left", `${Math.max(8, left)}px`);
    tip.style.setProperty("top", `${Math.max(8, found.y - tip.offsetHeight - 12)}px`);
  };

  const showAll = () => {
    byId("filter").value = "";
    const hadBrush = brushed !== null;
    brushed = null;
    update();
    if (hadBrush) drawScatter();
    byId("filter").focus();
  };

  data.costs.forEach(({ label }, index) => byId("cost").append(element("option", { value: index }, label)));
  for (const name of Object.keys(data.colours)) byId("colour").append(element("option", { value: name }, name.replace(/^stage(\d+)$/, "stage $1")));
  for (const id of ["cost", "colour"]) byId(id).addEventListener("change", () => { brushed = null; update(); drawScatter(); });
  byId("filter").addEventListener("input", update);
  byId("clear").addEventListener("click", showAll);
  byId("keep").addEventListener("click", () => detail.keep(chosen));
  table.whenChosen((row) => choose(row));
  scatter.whenPointed((row) => choose(row), tell);
  window.addEventListener("hashchange", () => { if (linked() >= 0) choose(linked(), { link: false }); });
  darkness.addEventListener("change", () => { brushed = null; update(); drawScatter(); detail.show(chosen); });

  const start = async () => {
    const row = linked();
    chosen = Math.max(0, row);
    table.mark(chosen);
    scatter.mark(chosen);
    update();
    await drawScatter();
    performance.mark("interactive");
    requestAnimationFrame(() => choose(chosen, { link: false, go: row >= 0 }));
  };
  start();
})();
