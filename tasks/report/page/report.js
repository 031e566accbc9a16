"use strict";
// The page's behavior: charts, the map, galleries of images, and lists to save. Names from files are only ever set as
// text, never as HTML; for plotly, which takes some HTML for markup, `plain` escapes them.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const images = page.images;
  const byId = (id) => document.getElementById(id);

  // ---- small tools
  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  function numbers(text, Type) {
    if (Uint8Array.fromBase64) return new Type(Uint8Array.fromBase64(text).buffer);
    const bytes = atob(text);
    const buffer = new Uint8Array(bytes.length);
    for (let i = 0; i < bytes.length; i++) buffer[i] = bytes.charCodeAt(i);
    return new Type(buffer.buffer);
  }
  const percent = (share) => `${(100 * share).toFixed(0)} %`;
  const count = (n, what) => `${n.toLocaleString("en-US")} ${what}${n === 1 ? "" : "s"}`;

  if (images) {
    const types = {
      labels: Int32Array, guesses: Int32Array, confidence: Float32Array, x: Float32Array, y: Float32Array,
      clusters: Int32Array, duplicates: Uint8Array, neighbors: Int32Array, similarities: Int16Array, thumbnails: Int32Array,
    };
    for (const [name, Type] of Object.entries(types)) images[name] = numbers(images[name], Type);
    images.sprites.urls = [];
    images.thumbnailCount = images.thumbnails.reduce((most, place) => Math.max(most, place + 1), 0);
    if (images.pair) {
      for (const [name, Type] of [["x", Float32Array], ["y", Float32Array], ["guesses", Int32Array], ["change", Int32Array]]) {
        images.pair[name] = numbers(images.pair[name], Type);
      }
    }
  }
  const className = (label) => (label < 0 ? "no class" : images.classes[label] ?? String(label));
  const isTest = (i) => i < images.tests;
  const hasTrain = images && images.count > images.tests;
  const hasClasses = images && images.classes.length > 1;

  // ---- images
  function thumb(i, size) {
    const place = images.thumbnails[i];
    const made = element("span", { className: place < 0 ? "thumb none" : "thumb" });
    made.style.width = made.style.height = `${size}px`;
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", place < 0 ? `${images.ids[i]} (not on this page)` : images.ids[i]);
    if (place < 0) return made;
    const { columns } = images.sprites;
    const perSheet = columns * columns;
    const sheet = Math.floor(place / perSheet);
    const onSheet = Math.min(perSheet, images.thumbnailCount - sheet * perSheet);
    const width = Math.min(onSheet, columns);
    const at = place % perSheet;
    made.style.backgroundImage = `url(${sheetUrl(sheet)})`;
    made.style.backgroundSize = `${width * size}px auto`;
    made.style.backgroundPosition = `${-(at % columns) * size}px ${-Math.floor(at / columns) * size}px`;
    if (images.sprites.side < size) made.style.imageRendering = "pixelated";
    return made;
  }
  function sheetUrl(sheet) {
    const { urls, sheets } = images.sprites;
    urls[sheet] ??= URL.createObjectURL(new Blob([numbers(sheets[sheet], Uint8Array)], { type: "image/webp" }));
    return urls[sheet];
  }

  function describe(i) {
    const lines = [element("strong", { textContent: images.ids[i] })];
    if (images.labels[i] >= 0) lines.push(element("small", { textContent: className(images.labels[i]) }));
    if (images.guesses[i] >= 0) {
      const right = images.labels[i] < 0 ? "" : images.guesses[i] === images.labels[i] ? "right" : "wrong";
      const text = `predicted ${className(images.guesses[i])} (${percent(images.confidence[i])})`;
      lines.push(element("small", { className: right, textContent: right === "wrong" ? `\u2717 ${text}` : text }));
    }
    if (hasTrain) lines.push(element("small", { textContent: isTest(i) ? "test" : "training" }));
    return lines;
  }
  function card(i, size = 96, more = "") {
    const made = element("button", { type: "button", className: "card" }, thumb(i, size), ...describe(i));
    if (more) made.append(element("small", { textContent: more }));
    made.addEventListener("click", () => showDetails(i));
    return made;
  }

  // A list of images: how many, buttons to copy and save their ids, and cards, more of them on demand.
  const PAGE = 60;
  function showList(box, title, list, more = () => "") {
    const gallery = element("div", { className: "gallery" });
    const next = element("button", { type: "button", textContent: "Show more" });
    let shown = 0;
    const extend = () => {
      for (const i of list.slice(shown, shown + PAGE)) gallery.append(card(i, 96, more(i)));
      shown += PAGE;
      next.hidden = shown >= list.length;
    };
    next.addEventListener("click", extend);
    const copy = element("button", { type: "button", textContent: "Copy ids" });
    copy.addEventListener("click", async () => {
      const text = list.map((i) => images.ids[i]).join("\n");
      try {
        await navigator.clipboard.writeText(text);
      } catch { // not allowed for a page that was opened from a file
        const area = element("textarea", { value: text });
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
      }
      copy.textContent = "Copied";
    });
    const save = element("button", { type: "button", textContent: "Save as CSV" });
    save.addEventListener("click", () => saveCsv("images.csv", [
      ["id", "set", "label", "predicted", "confidence"],
      ...list.map((i) => [images.ids[i], isTest(i) ? "test" : "train", images.labels[i] < 0 ? "" : className(images.labels[i]),
        images.guesses[i] < 0 ? "" : className(images.guesses[i]), images.confidence[i].toFixed(4)]),
    ]));
    const controls = element("p", { className: "controls" }, ...(list.length ? [copy, save] : []));
    box.replaceChildren(element("h3", { textContent: `${title}: ${count(list.length, "image")}` }), controls, gallery, next);
    extend();
  }
  function saveCsv(name, rows) {
    const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${String(cell).replace(/"/g, '""')}"` : String(cell));
    const text = rows.map((row) => row.map(quoted).join(",")).join("\r\n");
    const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // The panel of one image, with its nearest neighbors.
  const details = byId("details");
  function showDetails(i) {
    const close = element("button", { type: "button", className: "close", textContent: "Close" });
    close.addEventListener("click", hideDetails);
    const width = images.neighborsPerImage;
    const gallery = element("div", { className: "gallery" });
    for (let n = 0; n < width; n++) {
      const other = images.neighbors[i * width + n];
      if (other >= 0) gallery.append(card(other, 76, `cosine ${(images.similarities[i * width + n] / 32767).toFixed(3)}`));
    }
    details.replaceChildren(close, thumb(i, 160), element("p", { className: "facts-of-image" }, ...describe(i)),
      element("h3", { textContent: `Nearest neighbors${hasTrain ? " in the training set" : ""}` }), gallery);
    details.hidden = false;
    details.scrollTop = 0;
    details.focus({ preventScroll: true });
    highlight(i);
  }
  function hideDetails() {
    details.hidden = true;
    highlight(-1);
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideDetails(); });

  // ---- colors, light and dark
  const root = document.documentElement;
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  root.dataset.theme = prefersDark.matches ? "dark" : "light";
  const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  // Okabe and Ito's colors that are visible on white and on black; more classes differ by symbol.
  const COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999933"];
  const SYMBOLS = ["circle", "square", "diamond", "cross", "triangle-up", "x"];
  const GRAY = "#9a9a9a";
  const CONFIG = { responsive: true, displaylogo: false, scrollZoom: false };
  const MAP_CONFIG = { ...CONFIG, scrollZoom: true, modeBarButtonsToRemove: ["select2d", "toImage", "autoScale2d"] };

  function themed(layout) {
    const made = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
    made.font = { ...layout.font, color: color("text"), family: "system-ui, sans-serif", size: 13 };
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(name)) {
        made[name] = { ...layout[name], gridcolor: color("line"), linecolor: color("line"), zerolinecolor: color("line") };
      }
    }
    made.modebar = { bgcolor: "rgba(0,0,0,0)", color: color("soft"), activecolor: color("text") };
    made.hoverlabel = { bgcolor: color("card"), bordercolor: color("line"), font: { color: color("text") } };
    return made;
  }

  const react = (target, data, layout, config) => Plotly.react(target, data, {
    ...layout, autosize: true, width: root.classList.contains("printing") ? target.clientWidth : undefined,
  }, config);
  const drawn = new Map(); // element -> function that draws it again
  function draw(target, make) {
    drawn.set(target, make);
    return make();
  }
  function setTheme(theme) {
    root.dataset.theme = theme;
    for (const make of drawn.values()) make();
  }
  byId("theme").addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));

  // ---- charts that need no behavior but drawing, when they come into view
  function drawFigure(target) {
    const { data, layout } = page.figures[target.dataset.figure];
    return draw(target, () => {
      if (target.dataset.figure === "confusion") {
        data[0].colorscale = [[0, color("card")], [1, color("accent")]];
        // Names side by side need room; without it they are in the hover text and the lists below.
        layout.xaxis.showticklabels = layout.yaxis.showticklabels = target.clientWidth > 16 * data[0].z.length;
      }
      return react(target, data, themed(layout), CONFIG);
    });
  }
  const waiting = new Map(); // element -> function that draws it for the first time
  function drawWaiting(target) {
    const first = waiting.get(target);
    waiting.delete(target);
    if (first) first();
  }
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) drawWaiting(target);
  }, { rootMargin: "200px" });
  function drawInView(target, first) {
    waiting.set(target, first);
  }
  // The chart library takes a second or more to compile: only once the page is painted.
  function compileLibrary() {
    if (window.Plotly) return;
    document.head.append(element("script", { textContent: byId("plotly").textContent }));
    for (const target of waiting.keys()) watcher.observe(target);
  }
  requestAnimationFrame(() => setTimeout(compileLibrary));
  let theme = "";
  window.addEventListener("beforeprint", () => { // on white, all charts, as wide as paper
    theme = root.dataset.theme;
    root.classList.add("printing");
    compileLibrary();
    [...waiting.keys()].forEach(drawWaiting);
    setTheme("light");
  });
  window.addEventListener("afterprint", () => {
    root.classList.remove("printing");
    setTheme(theme);
  });
  for (const target of document.querySelectorAll(".chart")) {
    target.style.minHeight = `${page.figures[target.dataset.figure].layout.height}px`; // nothing moves when it is drawn
    drawInView(target, () => {
      drawFigure(target);
      if (target.dataset.figure === "confusion") target.on("plotly_click", (event) => {
        const [row, column] = event.points[0].pointIndex;
        showCell(page.confused[row], page.confused[column]);
      });
    });
  }

  // ---- the map
  const state = { set: "test", color: hasClasses ? "class" : "cluster", found: [] };
  const mapChart = byId("map-chart");
  const inSet = { test: isTest, train: (i) => !isTest(i), all: () => true };
  const colorings = {
    class: { title: "class", name: (i) => className(images.labels[i]), order: (i) => images.labels[i] },
    right: {
      title: "right or wrong",
      name: (i) => ["right", "wrong", "no label"][colorings.right.order(i)],
      order: (i) => (images.labels[i] < 0 || images.guesses[i] < 0 ? 2 : Number(images.guesses[i] !== images.labels[i])),
      style: [["#0072b2", "circle"], ["#d55e00", "x"], [GRAY, "circle"]],
    },
    split: { title: "test or training", name: (i) => (isTest(i) ? "test" : "training"), order: (i) => Number(!isTest(i)) },
    duplicate: {
      title: "near-duplicate",
      name: (i) => (images.duplicates[i] ? "has a near-duplicate" : "has none"),
      order: (i) => Number(!images.duplicates[i]),
      style: [["#d55e00", "diamond"], [GRAY, "circle"]],
    },
    cluster: { title: "cluster", name: (i) => `cluster ${images.clusters[i] + 1}`, order: (i) => images.clusters[i] },
  };
  // More values than there are styles share them: a trace for each style, without a legend.
  const STYLES = COLORS.length * SYMBOLS.length;
  const styleOf = (coloring, value) => (value < 0 ? [GRAY, "circle"] : coloring.style ? coloring.style[value]
    : [COLORS[value % COLORS.length], SYMBOLS[Math.floor(value / COLORS.length) % SYMBOLS.length]]);
  // Without a GPU, SVG is drawn sooner than WebGL up to a few thousand points.
  const pointType = images && images.count > 3000 ? "scattergl" : "scatter";
  const sizeFor = (n) => (n > 30000 ? 3 : n > 5000 ? 4 : n > 1500 ? 5 : 7);

  function mapTraces() {
    const coloring = colorings[state.color];
    const shared = sharesColors();
    const groups = new Map();
    let total = 0;
    for (let i = 0; i < images.count; i++) {
      if (!inSet[state.set](i)) continue;
      const order = coloring.order(i);
      const value = shared && order >= 0 ? order % STYLES : order;
      if (!groups.has(value)) groups.set(value, []);
      groups.get(value).push(i);
      total++;
    }
    const values = [...groups.keys()].sort((a, b) => (a < 0) - (b < 0) || a - b);
    const traces = values.map((value) => {
      const of = groups.get(value);
      const [fill, symbol] = styleOf(coloring, value);
      return pointTrace(of, images, plain(coloring.name(of[0])), { color: fill, symbol, size: sizeFor(total), opacity: 0.8 });
    });
    const found = pointTrace(state.found.filter(inSet[state.set]), images, "found",
      { color: color("text"), symbol: "circle-open", size: 12, line: { width: 2 } });
    return [...traces, { ...found, hoverinfo: "skip" }, ringTrace()];
  }
  const sharesColors = () => state.color === "class" && images.classes.length > STYLES;
  const pointTrace = (list, from, name, marker) => ({
    type: pointType, mode: "markers", name, customdata: list, hoverinfo: "none", marker,
    x: Float32Array.from(list, (i) => from.x[i]), y: Float32Array.from(list, (i) => from.y[i]),
    unselected: { marker: { opacity: 0.15 } },
  });
  const ringTrace = () => ({
    type: pointType, mode: "markers", name: "chosen", hoverinfo: "skip", showlegend: false, x: [null], y: [null],
    marker: { color: "rgba(0,0,0,0)", size: 18, symbol: "circle", line: { color: color("text"), width: 3 } },
  });
  const mapAxis = { visible: false, showgrid: false, zeroline: false };
  const BELOW = { orientation: "h", y: -0.02, yanchor: "top", itemsizing: "constant" };
  function mapLayout(legend) {
    return themed({
      margin: { l: 8, r: 8, t: 8, b: 8 }, dragmode: "lasso", hovermode: "closest", uirevision: "map", xaxis: mapAxis,
      yaxis: { ...mapAxis, scaleanchor: "x" }, showlegend: legend !== null, legend: legend ?? {},
    });
  }
  function drawMap() {
    if (waiting.has(mapChart)) return Promise.resolve(); // it is drawn with this state when it comes into view
    return draw(mapChart, () => {
      const traces = mapTraces();
      const wide = mapChart.clientWidth > 600;
      byId("map-shared").hidden = !sharesColors();
      const legend = sharesColors() ? null : wide ? { itemsizing: "constant" } : traces.length <= 12 ? BELOW : null;
      return react(mapChart, traces, mapLayout(legend), MAP_CONFIG);
    });
  }
  const tip = byId("tip");
  function showTip(event) {
    const i = event.points[0].customdata;
    if (i === undefined) return;
    tip.replaceChildren(thumb(i, 112), element("div", {}, ...describe(i)));
    tip.hidden = false;
    const { clientX, clientY } = event.event;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.min(clientX + 14, innerWidth - width - 8)}px`;
    tip.style.top = `${Math.max(8, clientY + 14 + height > innerHeight ? clientY - height - 14 : clientY + 14)}px`;
    return i;
  }
  const hideTip = () => { tip.hidden = true; };

  const rings = []; // [chart, where its points are]
  function highlight(i) {
    for (const [chart, from] of rings) {
      const here = i >= 0 && i < from.x.length;
      const last = chart.data.length - 1;
      Plotly.restyle(chart, { x: [[here ? from.x[i] : null]], y: [[here ? from.y[i] : null]] }, [last]);
    }
  }

  function options(select, entries, chosen) {
    select.replaceChildren(...entries.map(([value, text]) => element("option", { value, textContent: text, selected: value === chosen })));
  }
  if (images) {
    const sets = [["test", `test images (${images.tests.toLocaleString("en-US")})`]];
    if (hasTrain) {
      sets.push(["train", `training images (${(images.count - images.tests).toLocaleString("en-US")})`], ["all", "both"]);
    }
    options(byId("map-set"), sets, state.set);
    const names = ["class", "right", "split", "duplicate", "cluster"].filter((name) =>
      (hasClasses || !["class", "right"].includes(name)) && (hasTrain || name !== "split"));
    options(byId("map-color"), names.map((name) => [name, colorings[name].title]), state.color);
    byId("map-set").addEventListener("change", (event) => { state.set = event.target.value; drawMap(); });
    byId("map-color").addEventListener("change", (event) => { state.color = event.target.value; drawMap(); });
    byId("map-controls").addEventListener("submit", (event) => event.preventDefault());
    byId("map-reset").addEventListener("click", () => {
      byId("map-search").value = "";
      state.found = [];
      byId("map-list").replaceChildren();
      drawMap().then(() => Plotly.relayout(mapChart, { "xaxis.autorange": true, "yaxis.autorange": true, selections: [] }));
    });
    let timer = 0;
    byId("map-search").addEventListener("input", (event) => {
      clearTimeout(timer);
      timer = setTimeout(() => search(event.target.value.trim().toLowerCase()), 200);
    });
    drawInView(mapChart, () => {
      drawMap();
      rings.push([mapChart, images]);
      mapChart.on("plotly_hover", showTip);
      mapChart.on("plotly_unhover", hideTip);
      mapChart.on("plotly_click", (event) => { hideTip(); showDetails(event.points[0].customdata); });
      mapChart.on("plotly_selected", (event) => {
        if (!event || !event.points.length) return;
        const chosen = [...new Set(event.points.map((point) => point.customdata).filter((i) => i !== undefined))];
        showList(byId("map-list"), "Selected", chosen);
      });
    });
    drawSuspects();
    drawCells();
    drawPair();
  }
  function search(text) {
    const classes = new Set(images.classes.flatMap((name, label) => (text && name.toLowerCase().includes(text) ? [label] : [])));
    state.found = [];
    for (let i = 0; text && i < images.count; i++) {
      if (inSet[state.set](i) && (classes.has(images.labels[i]) || images.ids[i].toLowerCase().includes(text))) state.found.push(i);
    }
    drawMap();
    if (text) showList(byId("map-list"), `Found "${text}"`, state.found);
    else byId("map-list").replaceChildren();
  }

  // ---- confusion
  function showCell(label, guess) {
    const list = [];
    for (let i = 0; i < images.tests; i++) if (images.labels[i] === label && images.guesses[i] === guess) list.push(i);
    list.sort((a, b) => images.confidence[b] - images.confidence[a]);
    byId("cell-true").value = label;
    byId("cell-predicted").value = guess;
    showList(byId("cell-list"), `${className(label)} predicted as ${className(guess)}, most confident first`, list);
  }
  function drawCells() {
    const form = byId("cell-controls");
    if (!form) return;
    const present = [...new Set(images.labels.slice(0, images.tests))].filter((label) => label >= 0).sort((a, b) => a - b);
    options(byId("cell-true"), present.map((label) => [label, className(label)]));
    options(byId("cell-predicted"), images.classes.map((name, label) => [label, name]));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      showCell(Number(byId("cell-true").value), Number(byId("cell-predicted").value));
    });
  }

  // ---- tables that can be sorted
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.querySelectorAll("thead th")];
    headings.forEach((heading, column) => heading.querySelector("button")?.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const text = (row) => row.cells[column].textContent.trim();
      const rows = [...table.tBodies[0].rows].sort((a, b) => text(a).localeCompare(text(b), "en", { numeric: true }));
      table.tBodies[0].append(...(descending ? rows.reverse() : rows));
    }));
  }

  // ---- suspects
  function drawSuspects() {
    for (const box of document.querySelectorAll("[data-suspects]")) {
      for (const [list, , reason] of page.suspects[box.dataset.suspects].slice(0, 9)) {
        const made = element("button", { type: "button", className: "card" },
          element("span", { className: "pair" }, ...list.map((i) => thumb(i, 96))),
          ...list.map((i) => element("strong", { textContent: `${images.ids[i]}${hasTrain ? (isTest(i) ? " (test)" : " (training)") : ""} ` })),
          element("small", { textContent: reason }));
        made.addEventListener("click", () => showDetails(list[0]));
        box.append(made);
      }
    }
    for (const button of document.querySelectorAll("[data-csv]")) {
      button.addEventListener("click", () => {
        const rows = page.suspects[button.dataset.csv];
        const pairs = rows.some(([list]) => list.length > 1);
        const named = (i) => (i === undefined ? ["", "", ""] : [images.ids[i], isTest(i) ? "test" : "train",
          images.labels[i] < 0 ? "" : className(images.labels[i])]);
        saveCsv(`${button.dataset.csv}.csv`, [
          ["id", "set", "label", ...(pairs ? ["other id", "other set", "other label"] : []), "score", "reason"],
          ...rows.map(([list, score, reason]) => [...named(list[0]), ...(pairs ? named(list[1]) : []), score, reason]),
        ]);
      });
    }
  }

  // ---- two encoders
  function drawPair() {
    if (!images.pair) return;
    const kinds = [
      ["both right or both wrong", 0, GRAY, "circle"], ["only the second is right", 1, "#009e73", "triangle-up"],
      ["only the first is right", -1, "#d55e00", "x"],
    ];
    const tests = Array.from({ length: images.tests }, (_, i) => i);
    for (const [id, from] of [["pair-first", images], ["pair-second", images.pair]]) {
      const target = byId(id);
      const shown = { x: from.x.subarray(0, images.tests), y: from.y.subarray(0, images.tests) };
      drawInView(target, () => {
        draw(target, () => react(target, [
          ...kinds.map(([name, change, fill, symbol]) => pointTrace(tests.filter((i) => images.pair.change[i] === change), shown,
            name, { color: fill, symbol, size: sizeFor(images.tests), opacity: change ? 0.9 : 0.45 })),
          ringTrace(),
        ], mapLayout(BELOW), MAP_CONFIG));
        rings.push([target, shown]);
        target.on("plotly_hover", (event) => { const i = showTip(event); if (i !== undefined) highlight(i); });
        target.on("plotly_unhover", () => { hideTip(); highlight(-1); });
        target.on("plotly_click", (event) => { hideTip(); showDetails(event.points[0].customdata); });
      });
    }
    for (const button of document.querySelectorAll("[data-change]")) {
      button.addEventListener("click", () => {
        const wanted = Number(button.dataset.change);
        const list = tests.filter((i) => images.pair.change[i] === wanted);
        showList(byId("pair-list"), button.textContent.replace(/ \(.*/, ""), list,
          (i) => `${images.pair.name} predicts ${className(images.pair.guesses[i])}`);
      });
    }
  }
  window.reportReady = true; // for tests
})();
