// Vega-Lite draws; here is what it draws, and in which colours. None of them needs eval.
const darkness = window.matchMedia("(prefers-color-scheme: dark)");

const palettes = {
  light: {
    ink: "#1c2127", soft: "#535c66", grid: "#e6e8eb", axis: "#9aa2ab", paper: "#ffffff", several: "#7b6a58",
    cycle: ["#0072b2", "#d55e00", "#008a64", "#b8558f", "#a87400", "#3a93cc", "#7f7a00"],
    verdicts: { better: "#0072b2", "not worse": "#009e73", worse: "#d55e00", undecided: "#737b85" },
  },
  dark: {
    ink: "#e8eaed", soft: "#b3bac3", grid: "#2c3138", axis: "#727b86", paper: "#1b1e23", several: "#bda78e",
    cycle: ["#4fa9e6", "#ff8f45", "#2fc79a", "#e79bc8", "#efb73e", "#9ad2f7", "#e8dd4d"],
    verdicts: { better: "#4fa9e6", "not worse": "#3ac79c", worse: "#ff8f45", undecided: "#98a1ac" },
  },
};
const palette = () => (darkness.matches ? palettes.dark : palettes.light);
const shapes = ["square", "triangle-up", "cross", "triangle-down", "diamond", "triangle-right", "circle"];

const colourOf = (operation) => {
  const { ink, several, cycle } = palette();
  if (operation === data.several) return several;
  const index = data.operations.indexOf(operation);
  return index > 0 ? cycle[(index - 1) % cycle.length] : ink;
};

const views = new Map();

// The values are given after Vega-Lite has compiled, as it would look at all of them. Nothing comes
// back if something else was to be drawn there meanwhile.
const draw = async (place, spec, values) => {
  const { ink, soft, grid, axis } = palette();
  const font = getComputedStyle(document.body).fontFamily;
  const config = {
    aria: false, // a plot is one picture with one name; each point is a row of the table
    font, background: "transparent", view: { stroke: null },
    axis: {
      labelColor: soft, titleColor: ink, gridColor: grid, domainColor: axis, tickColor: axis,
      labelFontSize: 12, titleFontSize: 13, titleFontWeight: 500, labelPadding: 5, titlePadding: 10, tickSize: 4,
    },
    legend: { labelColor: ink, titleColor: soft, labelFontSize: 12.5, symbolSize: 90, symbolOpacity: 1, rowPadding: 4, columnPadding: 16 },
  };
  const options = {
    mode: "vega-lite", renderer: "svg", actions: false, tooltip: false, ast: true, defaultStyle: false, config,
    patch: (compiled) => {
      compiled.data.find(({ name }) => name === "values").values = values;
      return compiled;
    },
  };
  // Vega names the element it draws in, and the name of the place is ours
  const canvas = element("div");
  place.replaceChildren(canvas);
  const sized = { width: "container", autosize: { type: "fit-x", contains: "padding" }, data: { name: "values" } };
  const { view } = await vegaEmbed(canvas, { ...sized, ...spec }, options);
  if (canvas.parentNode !== place) {
    view.finalize();
    return null;
  }
  views.get(place)?.finalize();
  views.set(place, view);
  return view;
};

const legendOnTop = (place, labels) => {
  const most = place.clientWidth - 100;
  const widest = Math.max(...labels.map((label) => Math.min(most, label.length * 7.5)));
  const columns = Math.max(1, Math.floor((place.clientWidth - 60) / (widest + 44)));
  return { orient: "top", direction: "horizontal", columns, labelLimit: most, offset: 6 };
};

// Accuracy against a cost. Dragging selects; hovering and clicking take the nearest point, also where
// the rectangle of a selection lies over it.
const scatter = (() => {
  const place = byId("scatter");
  const reach = 18;
  let view = null;
  let points = [];
  let isShown = null;
  let chosen = null;

  const pointsOf = (cost, kind) => cost.x.flatMap((x, row) => (isMissing(x) ? [] : [{
    row, x, y: data.accuracy.y[row], low: data.accuracy.low[row], high: data.accuracy.high[row],
    left: cost.low?.[row] ?? x, right: cost.high?.[row] ?? x,
    kind: kind[row], model: data.models?.[row] ?? "", shown: !isShown || isShown[row], chosen: row === chosen,
  }]));

  const specOf = (cost, by) => {
    const kinds = [...new Set(points.map((point) => point.kind))];
    const { ink, soft, paper, cycle, verdicts } = palette();
    const isOperation = (kind) => data.operations.includes(kind) || kind === data.several;
    const colours = kinds.map((kind, index) => (by === "verdict" ? verdicts[kind] ?? ink
      : kinds.every(isOperation) ? colourOf(kind) : cycle[index % cycle.length]));
    // as often as colours come again, shapes are shifted by one
    const shapeAt = (index) => shapes[(index + Math.floor(index / cycle.length)) % shapes.length];
    const shapeOf = (kind, index) => (kind === data.original ? "diamond" : kind === data.several ? "circle"
      : shapeAt(isOperation(kind) ? data.operations.indexOf(kind) - 1 : index));
    const ends = (low, high) => [Math.min(...points.map((point) => point[low])), Math.max(...points.map((point) => point[high]))];
    const scaleOf = (low, high, padding) => ({ domain: ends(low, high), zero: false, nice: false, padding });
    const x = { field: "x", type: "quantitative", title: cost.label, scale: scaleOf("left", "right", 16), axis: { grid: false, tickCount: 7 } };
    const y = { field: "y", type: "quantitative", title: "test top-1 (%)", scale: scaleOf("low", "high", 14), axis: { tickCount: 6 } };
    const legend = legendOnTop(place, [...kinds, ...(data.models ?? [])]);
    const color = { field: "kind", type: "nominal", title: null, scale: { domain: kinds, range: colours }, legend };
    const models = [...new Set(data.models ?? [])];
    const shape = models.length
      ? { field: "model", type: "nominal", title: null, scale: { domain: models, range: models.map((_, index) => shapeAt(index)) }, legend: { ...legend, symbolFillColor: "transparent", symbolStrokeColor: soft } }
      : { field: "kind", type: "nominal", title: null, scale: { domain: kinds, range: kinds.map(shapeOf) }, legend };
    const fading = (strong, weak) => ({ condition: { test: { and: ["datum.shown", { param: "brush" }] }, value: strong }, value: weak });
    const whisker = { mark: { type: "rule", strokeWidth: 1.2 }, encoding: { x, y, color, opacity: fading(points.length > 60 ? 0.22 : 0.75, 0.05) } };
    const layer = [
      { data: { values: cost.front.map((row) => ({ x: cost.x[row], y: data.accuracy.y[row] })) },
        mark: { type: "line", interpolate: "step-after", color: soft, strokeDash: [5, 4], strokeWidth: 1.3 }, encoding: { x, y, order: { field: "x" } } },
      { ...whisker, encoding: { ...whisker.encoding, y: { ...y, field: "low" }, y2: { field: "high" } } },
      ...(cost.low ? [{ ...whisker, encoding: { ...whisker.encoding, x: { ...x, field: "left" }, x2: { field: "right" } } }] : []),
      { params: [{ name: "brush", select: { type: "interval", mark: { fill: soft, fillOpacity: 0.12, stroke: soft, strokeOpacity: 0.6 } } }],
        mark: { type: "point", filled: true, size: points.length > 60 ? 55 : 95, stroke: paper, strokeWidth: 0.8 },
        encoding: { x, y, color, shape, opacity: fading(0.95, 0.12) } },
      { transform: [{ filter: "datum.chosen" }],
        mark: { type: "point", shape: "circle", size: 330, color: ink, strokeWidth: 2, filled: false, fill: "transparent" }, encoding: { x, y } },
    ];
    return { height: 440, layer };
  };

  const refresh = () => {
    const isSame = (point) => point.shown === (!isShown || isShown[point.row]) && point.chosen === (point.row === chosen);
    if (!view || points.every(isSame)) return;
    points = points.map((point) => ({ ...point, shown: !isShown || isShown[point.row], chosen: point.row === chosen }));
    view.data("values", copies()).runAsync();
  };

  // Vega marks the objects that it gets, and takes marked ones for those it has already
  const copies = () => points.map((point) => ({ ...point }));

  const nearest = (event) => {
    if (!view) return null;
    const box = place.querySelector("svg").getBoundingClientRect();
    const [left, top] = view.origin();
    const [px, py] = [event.clientX - box.left - left, event.clientY - box.top - top];
    const [x, y] = [view.scale("x"), view.scale("y")];
    let found = null;
    let least = reach;
    for (const point of points) {
      const distance = Math.hypot(x(point.x) - px, y(point.y) - py);
      if (point.shown && distance < least) [found, least] = [point, distance];
    }
    return found && { row: found.row, x: box.left + left + x(found.x), y: box.top + top + y(found.y) };
  };

  const describe = (cost) => {
    const known = points.map((point) => point.y);
    const best = cost.front.slice(-1).map((row) => `; most accurate: ${data.name[row]}`).join("");
    return `Scatter plot: test accuracy against ${cost.label} of ${points.length} variants, from `
      + `${Math.min(...known).toFixed(2)} to ${Math.max(...known).toFixed(2)} %${best}. The same figures stand in the table of results.`;
  };

  const redraw = async (cost, by, onBrush) => {
    points = pointsOf(cost, data.colours[by]);
    const bars = `Bars: standard deviation over the seeds${cost.low ? ", and the 95 % interval of the relative time" : ""}. `;
    const front = cost.front.length > 1 ? "Dashed: the front; no variant is both cheaper and more accurate. " : "";
    byId("scatter-hint").textContent = `${bars}${front}Drag to select points, click one to see the variant.`;
    place.setAttribute("aria-label", describe(cost));
    const made = await draw(place, specOf(cost, by), copies());
    if (!made) return;
    view = made;
    refresh();
    view.addSignalListener("brush", (_, brush) => {
      const ranges = Object.entries(brush ?? {}).map(([key, ends]) => [key, Math.min(...ends), Math.max(...ends)]);
      const isIn = (point) => ranges.every(([key, low, high]) => point[key] >= low && point[key] <= high);
      onBrush(ranges.length ? new Set(points.filter(isIn).map((point) => point.row)) : null);
    });
  };

  const whenPointed = (choose, tell) => {
    let from = null;
    place.addEventListener("pointerdown", (event) => { from = [event.clientX, event.clientY]; });
    place.addEventListener("click", (event) => {
      const hasMoved = from && Math.hypot(event.clientX - from[0], event.clientY - from[1]) > 4;
      const found = hasMoved ? null : nearest(event);
      if (found) choose(found.row);
    });
    place.addEventListener("pointermove", (event) => {
      const found = event.buttons ? null : nearest(event);
      place.classList.toggle("pointing", found !== null);
      tell(found);
    });
    place.addEventListener("pointerleave", () => tell(null));
  };

  return {
    redraw, whenPointed,
    show: (rows) => { isShown = rows; refresh(); },
    mark: (row) => { chosen = row; refresh(); },
  };
})();
