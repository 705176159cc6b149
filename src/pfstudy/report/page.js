"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let order = { key: null, down: false };
  let selected = null; // hashes that were dragged over, or null for all
  let chosen = null;
  let view = null;

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  const shown = () => {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = data.rows.filter((row) =>
      (selected === null || selected.has(row.hash)) && words.every((word) => row.text.includes(word)));
    if (order.key !== null) {
      const sign = order.down ? -1 : 1;
      const missing = (value) => value === null || value === undefined;
      rows.sort((one, other) => {
        const [a, b] = [one.values[order.key], other.values[order.key]];
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        return sign * (a < b ? -1 : a > b ? 1 : 0);
      });
    }
    return rows;
  };

  const drawHead = () => {
    const cells = data.columns.map((column) => {
      const button = element("button", { type: "button" }, column.label);
      button.addEventListener("click", () => {
        order = { key: column.key, down: order.key === column.key ? !order.down : !column.text };
        drawHead();
        drawBody();
        document.querySelector(`th[data-key="${CSS.escape(column.key)}"] button`).focus();
      });
      const sorted = order.key === column.key ? (order.down ? "descending" : "ascending") : "none";
      const kind = column.text ? {} : { class: "number" };
      return element("th", { scope: "col", "aria-sort": sorted, "data-key": column.key, ...kind }, button);
    });
    byId("table").tHead.replaceChildren(element("tr", {}, ...cells));
  };

  const drawBody = () => {
    const rows = shown();
    const lines = rows.map((row) => {
      const cells = data.columns.map((column, index) => {
        const text = row.cells[index];
        const content = row.best[index] ? element("strong", {}, text) : text;
        if (column.key !== "variant") return element("td", column.text ? {} : { class: "number" }, content);
        const button = element("button", { type: "button" }, content);
        return element("td", {}, button);
      });
      const line = element("tr", { "aria-selected": String(row.hash === chosen), "data-hash": row.hash }, ...cells);
      line.addEventListener("click", () => choose(row.hash, true));
      return line;
    });
    byId("table").tBodies[0].replaceChildren(...lines);
    byId("count").textContent = `${rows.length} of ${data.rows.length} variants`;
  };

  const theme = () => (dark.matches
    ? { background: "transparent", view: { stroke: null }, axis: { labelColor: "#c8ccd2", titleColor: "#c8ccd2", gridColor: "#33373d", domainColor: "#6a7078", tickColor: "#6a7078" }, legend: { labelColor: "#c8ccd2", titleColor: "#c8ccd2" }, title: { color: "#c8ccd2", subtitleColor: "#c8ccd2" }, text: { fill: "#c8ccd2" } }
    : { background: "transparent", view: { stroke: null } });
  const embed = (place, spec) => vegaEmbed(place, spec, { actions: false, renderer: "svg", config: theme() });

  const drawScatter = async () => {
    const spec = data.scatters[byId("cost").value];
    const found = await embed(byId("scatter"), spec);
    view = found.view;
    view.addEventListener("click", (event, item) => {
      if (item && item.datum && item.datum.hash) choose(item.datum.hash, false);
    });
    view.addSignalListener("brush", (name, brush) => {
      const ranges = Object.entries(brush || {});
      selected = ranges.length === 0 ? null : new Set(spec.datasets.points
        .filter((point) => ranges.every(([key, [low, high]]) => point[key] >= Math.min(low, high) && point[key] <= Math.max(low, high)))
        .map((point) => point.hash));
      drawBody();
    });
  };

  const drawDiagram = (row) => {
    const stages = new Map();
    for (const [address, operation] of Object.entries(row.operations)) {
      const [stage, block] = address.split(".");
      if (!stages.has(stage)) stages.set(stage, []);
      stages.get(stage).push([block, operation]);
    }
    byId("diagram").replaceChildren(...[...stages].map(([stage, blocks]) =>
      element("div", { class: "stage" }, element("span", {}, stage), ...blocks.map(([block, operation]) => {
        const replaced = operation !== data.original;
        return element("span", { class: replaced ? "block replaced" : "block", title: `${stage}.${block}` }, operation);
      }))));
  };

  const choose = (hash, scroll) => {
    chosen = hash;
    const row = data.rows.find((each) => each.hash === hash);
    for (const line of byId("table").tBodies[0].rows) line.setAttribute("aria-selected", String(line.dataset.hash === hash));
    byId("variant").hidden = false;
    byId("variant-heading").textContent = row.name;
    drawDiagram(row);
    const differences = row.difference.map(([key, ours, theirs]) =>
      element("tr", {}, element("th", { scope: "row" }, key), element("td", {}, theirs), element("td", {}, ours)));
    byId("difference").replaceChildren(differences.length
      ? element("table", {}, element("thead", {}, element("tr", {}, ...["setting", "baseline", "this variant"].map((text) => element("th", { scope: "col" }, text)))), element("tbody", {}, ...differences))
      : element("p", {}, "It is the baseline, or nothing but its layers differs."));
    const curves = data.curves[hash];
    byId("curves").replaceChildren();
    if (curves) {
      const spec = structuredClone(data.curve);
      spec.data = { values: [...curves, ...(data.curves[row.family] && row.family !== hash ? data.curves[row.family] : [])] };
      embed(byId("curves"), spec);
    }
    if (scroll) {
      byId("variant-heading").focus({ preventScroll: true });
      byId("variant").scrollIntoView({ behavior: "smooth", block: "nearest" });
    }
  };

  for (const [key, label] of data.costs) byId("cost").append(element("option", { value: key }, label));
  byId("cost").addEventListener("change", () => { selected = null; drawScatter(); drawBody(); });
  byId("filter").addEventListener("input", drawBody);
  byId("clear").addEventListener("click", () => { selected = null; byId("filter").value = ""; drawScatter(); drawBody(); });
  dark.addEventListener("change", () => { drawScatter(); drawEffects(); if (chosen) choose(chosen, false); });

  const drawEffects = () => {
    for (const [id, spec] of Object.entries(data.effects)) embed(byId(id), spec);
  };

  drawHead();
  drawBody();
  if (data.costs.length) drawScatter();
  else byId("scatter").textContent = "No costs are known.";
  drawEffects();
})();
