"use strict";
// Draws what the page's data block describes and lets the switches choose. Words from outside meet the document as text alone.
(() => {
  const { charts, datasets, themes } = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const byId = new Map(charts.map((chart) => [chart.id, chart]));
  const plots = [...document.querySelectorAll(".plot")].filter((plot) => byId.has(plot.id));
  const views = new Map(); // id of a chart -> what it shows: { view, key, width, theme }
  const GAP_RIGHT_PX = 14;
  const PANEL_LEFT_PX = 62; // of the charts whose rows share an axis (timeline.AXIS_PX, and the space beside it)

  // --- the data, by row again ---

  const unpacked = new Map();
  function rows(name) {
    if (!unpacked.has(name)) {
      const columns = Object.entries(datasets[name]);
      const count = columns.length ? columns[0][1].length : 0;
      unpacked.set(name, Array.from({ length: count }, (_, place) =>
        Object.fromEntries(columns.map(([key, values]) => [key, values[place]]))));
    }
    return unpacked.get(name);
  }

  function namesIn(spec, found = new Set()) {
    if (spec && typeof spec === "object") {
      if (spec.data && typeof spec.data.name === "string") found.add(spec.data.name);
      Object.values(spec).forEach((part) => namesIn(part, found));
    }
    return found;
  }

  // --- the switches ---

  function chosen(param) {
    if (param === "stage") {
      const select = document.querySelector(`select[data-of="${chosen("run")}"]`);
      return select && select.value;
    }
    const radio = document.querySelector(`input[name="${param}"]:checked`);
    return radio ? radio.value : "0"; // a page of one run has no switch for it
  }

  const keyOf = (chart) => chart.by.map(chosen).join("/");

  function showParts() {
    for (const part of document.querySelectorAll("[data-run]")) {
      const { run, stage } = part.dataset;
      part.hidden = run !== chosen("run") || (stage !== undefined && stage !== chosen("stage"));
    }
  }

  // --- drawing ---

  function sized(spec, width) {
    if (spec.vconcat) {
      for (const panel of spec.vconcat) panel.width = Math.max(width - PANEL_LEFT_PX - GAP_RIGHT_PX, 120);
    } else {
      spec.width = width;
      spec.autosize = { type: typeof spec.height === "number" ? "fit" : "fit-x", contains: "padding" };
    }
    return spec;
  }

  async function draw(plot) {
    const chart = byId.get(plot.id);
    const key = keyOf(chart), width = plot.clientWidth, theme = root.dataset.theme;
    const shown = views.get(plot.id);
    if (!(key in chart.variants) || width < 50) return;
    if (shown && shown.key === key && shown.width === width && shown.theme === theme) return;
    views.set(plot.id, { key, width, theme });
    // The plot itself has the chart's words for a screen reader, which the library would overwrite; the drawing has none.
    const place = plot.firstElementChild || plot.appendChild(document.createElement("div"));
    place.setAttribute("aria-hidden", "true");
    const spec = sized(structuredClone(chart.variants[key]), width);
    spec.datasets = Object.fromEntries([...namesIn(spec)].map((name) => [name, rows(name)]));
    try {
      const { view, finalize } = await vegaEmbed(place, spec, {
        mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false, ast: true, config: themes[theme], tooltip: tell,
      });
      plot.dataset.theme = theme;
      if (shown && shown.finalize) shown.finalize();
      const now = views.get(plot.id);
      if (now.key === key && now.width === width && now.theme === theme) Object.assign(now, { view, finalize });
      await applyPercentile(view, spec);
    } catch (error) {
      place.textContent = "This chart could not be drawn.";
      console.error(plot.id, error);
    }
  }

  const hasPercentile = (spec) => (spec.params || []).some((param) => param.name === "percentile");

  async function applyPercentile(view, spec) {
    if (hasPercentile(spec)) await view.signal("percentile", chosen("percentile")).runAsync();
  }

  let drawing = Promise.resolve();
  function drawAll() {
    // What is on the screen comes first; the rest follows whenever the browser has time.
    const inView = (plot) => { const box = plot.getBoundingClientRect(); return box.top < innerHeight && box.bottom > 0; };
    const [now, later] = [plots.filter(inView), plots.filter((plot) => !inView(plot))];
    drawing = drawing.then(async () => {
      for (const plot of now) await draw(plot);
      if (!root.dataset.interactiveMs) root.dataset.interactiveMs = String(Math.round(performance.now()));
      for (const plot of later) {
        await new Promise((go) => (window.requestIdleCallback || setTimeout)(go, { timeout: 200 }));
        await draw(plot);
      }
    });
    const mine = drawing;
    delete root.dataset.drawn;
    mine.then(() => { if (mine === drawing) root.dataset.drawn = "all"; });
  }

  // --- what stands under the pointer ---

  const tip = document.getElementById("tip");
  function tell(_handler, event, _item, value) {
    if (value === null || value === undefined || value === "") {
      tip.hidden = true;
      return;
    }
    const lines = typeof value === "object" ? Object.entries(value) : [["", value]];
    tip.replaceChildren(...lines.map(([name, text]) => {
      const line = document.createElement("div"), left = document.createElement("span"), right = document.createElement("b");
      left.textContent = name;
      right.textContent = String(text);
      line.append(left, right);
      return line;
    }));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const x = event.clientX + 14 + width > innerWidth ? event.clientX - width - 14 : event.clientX + 14;
    const y = event.clientY + 14 + height > innerHeight ? event.clientY - height - 14 : event.clientY + 14;
    tip.style.left = `${Math.max(4, x)}px`;
    tip.style.top = `${Math.max(4, y)}px`;
  }
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // --- light and dark ---

  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  function setTheme(theme) {
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light theme" : "Dark theme";
  }
  setTheme(prefersDark.matches ? "dark" : "light");
  button.hidden = false;
  button.addEventListener("click", () => { setTheme(root.dataset.theme === "dark" ? "light" : "dark"); drawAll(); });
  prefersDark.addEventListener("change", (event) => { setTheme(event.matches ? "dark" : "light"); drawAll(); });

  // --- on paper nothing can be opened ---

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
    opened = [];
  });

  // --- begin ---

  document.addEventListener("change", (event) => {
    const param = event.target.name || event.target.dataset.param;
    if (param === "percentile") {
      for (const { id, variants } of charts) {
        const shown = views.get(id);
        if (shown && shown.view) applyPercentile(shown.view, variants[shown.key]);
      }
    } else if (param) {
      showParts();
      drawAll();
    }
  });
  let resizing;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(drawAll, 150); });
  showParts();
  drawAll();
})();
