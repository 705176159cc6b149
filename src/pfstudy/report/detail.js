// What is known of one variant: its diagram, its curves, its difference to the baseline.
const detail = (() => {
  const kept = []; // variants whose curves stay when another one is chosen
  let curves = null; // parsed when they are first needed, as they are most of the data

  const swatch = (operation) => {
    const made = element("span", { class: "swatch", "aria-hidden": "true" });
    made.style.setProperty("--colour", colourOf(operation));
    return made;
  };

  const nameOf = (operation, row) => (operation === data.original && data.originals[row] !== data.original
    ? `${operation} (${data.originals[row]})` : operation);

  const drawDiagram = (row) => {
    const [network, ...stands] = data.stands[row];
    const places = data.networks[network];
    const stages = new Map();
    places.forEach((address, index) => {
      const [stage, block] = address.split(".");
      if (!stages.has(stage)) stages.set(stage, []);
      stages.get(stage).push([block ?? address, data.operations[stands[index]]]);
    });
    const blockOf = ([block, operation]) => {
      const made = element("span", { class: operation === data.original ? "block" : "block replaced", title: `${block}: ${operation}` },
        element("span", { class: "place" }, block.replace(/^block/, "")), operation);
      made.style.setProperty("--colour", colourOf(operation));
      return made;
    };
    const diagram = byId("diagram");
    diagram.replaceChildren(...[...stages].map(([stage, blocks]) =>
      element("div", { class: "stage" }, element("span", { class: "name" }, stage.replace(/^stage/, "stage ")), ...blocks.map(blockOf))));
    const spoken = [...stages].map(([stage, blocks]) => `${stage}: ${blocks.map(([, operation]) => operation).join(", ")}`);
    diagram.setAttribute("aria-label", spoken.length ? `Blocks in order. ${spoken.join("; ")}.` : "Its blocks were not recorded.");
    if (!places.length) diagram.textContent = "Its blocks were not recorded.";
    const used = [...new Set(stands)].sort((a, b) => a - b).map((index) => data.operations[index]);
    byId("legend").replaceChildren(...used.map((operation) => {
      const number = stands.filter((index) => data.operations[index] === operation).length;
      const what = `${nameOf(operation, row)}: ${number} of ${places.length} block${places.length === 1 ? "" : "s"}`;
      return element("li", {}, swatch(operation), what);
    }));
  };

  const curvesOf = (row, label) => curves[row].flatMap(([seed, epochs, accuracies]) =>
    accuracies.map((accuracy, index) => ({ label, seed, accuracy, epoch: Array.isArray(epochs) ? epochs[index] : epochs + index })));

  const drawCurves = async (row) => {
    curves ??= JSON.parse(byId("curves-data").textContent);
    const place = byId("curves");
    const control = data.control[row];
    const rows = [...new Set([...(isMissing(control) ? [] : [control]), row, ...kept])].filter((each) => curves[each].length);
    byId("keep").disabled = !curves[row].length || kept.includes(row);
    if (!rows.includes(row)) {
      place.textContent = "No curves were found for its runs.";
      place.setAttribute("aria-label", "No curves were found for its runs.");
      return;
    }
    // a name may come twice, as when only the recipe differs
    const labels = rows.map((each, index) => (rows.some((other, before) => before < index && data.name[other] === data.name[each])
      ? `${data.name[each]} (${data.hash[each].slice(0, 6)})` : data.name[each]));
    const { ink, cycle } = palette();
    let next = 0;
    const colours = rows.map((each) => (each === control ? ink : cycle[next++ % cycle.length]));
    const last = rows.map((each, index) => `${labels[index]} ends at ${curves[each].map(([, , accuracies]) => accuracies.at(-1)).join(" and ")} %`);
    place.setAttribute("aria-label", `Learning curves: validation accuracy by epoch. ${last.join("; ")}.`);
    const values = rows.flatMap((each, index) => curvesOf(each, labels[index]));
    // the steep beginning would leave no room for where the variants differ
    const late = Math.max(...values.map((value) => value.epoch)) / 5;
    const settled = values.filter((value) => value.epoch >= late).map((value) => value.accuracy);
    const domain = [Math.min(...settled), Math.max(...values.map((value) => value.accuracy))];
    const most = Math.max(...rows.map((each) => curves[each].length));
    await draw(place, {
      height: 210,
      mark: { type: "line", clip: true, strokeWidth: most > 3 ? 1.1 : 1.6, opacity: 0.9 },
      encoding: {
        x: { field: "epoch", type: "quantitative", title: "epoch", axis: { grid: false, tickMinStep: 1, tickCount: 6 }, scale: { nice: false } },
        y: { field: "accuracy", type: "quantitative", title: "validation top-1 (%)", scale: { domain, zero: false }, axis: { tickCount: 5 } },
        color: { field: "label", type: "nominal", title: null, scale: { domain: labels, range: colours }, legend: { ...legendOnTop(place, labels), symbolType: "stroke", symbolStrokeWidth: 3 } },
        detail: { field: "seed" },
      },
    }, values);
  };

  const writeDifference = (row) => {
    const control = data.control[row];
    const lines = data.differences[row].map(([what, theirs, ours]) =>
      element("tr", {}, element("th", { scope: "row" }, what), element("td", {}, theirs), element("td", { class: "ours" }, ours)));
    const heads = ["what", isMissing(control) ? "unsubstituted" : "baseline", "this variant"];
    byId("difference").replaceChildren(lines.length
      ? element("div", { class: "scroller", role: "region", "aria-label": "Config against the baseline", tabindex: "0" },
        element("table", { class: "plain" },
          element("caption", { class: "unseen" }, `Config of ${data.name[row]} against the baseline`),
          element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
          element("tbody", {}, ...lines)))
      : element("p", { class: "hint" }, control === row ? "It is the baseline." : "Nothing differs."));
  };

  const writeFigures = (row) => {
    const shown = ["test_top1_percent", "difference_points", "difference_low", "verdict", "latency_ms", "relative_speed", "params", "macs"];
    const found = shown.filter(table.has).map((key) => [data.columns.find((column) => column[0] === key)[1], table.cellText(row, key)]);
    byId("variant-figures").replaceChildren(...found.filter(([, text]) => text && text !== "-").map(([label, text]) =>
      element("span", {}, element("span", { class: "label" }, label), " ", element("b", {}, text))));
  };

  const writeKept = (row, again) => byId("kept").replaceChildren(...kept.map((each) => {
    const button = element("button", { type: "button", "aria-label": `No longer compare ${data.name[each]}` }, `${data.name[each]} ×`);
    button.addEventListener("click", () => {
      kept.splice(kept.indexOf(each), 1);
      again();
      byId("keep").focus();
    });
    return button;
  }));

  const show = (row) => {
    byId("variant-heading").textContent = data.name[row];
    writeFigures(row);
    drawDiagram(row);
    writeDifference(row);
    writeKept(row, () => show(row));
    return drawCurves(row);
  };

  return { show, keep: (row) => { kept.push(row); return show(row); } };
})();
