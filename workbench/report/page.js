"use strict";
(function () {
  const root = document.documentElement, all = (where, what) => Array.from(where.querySelectorAll(what));
  const drawn = () => all(document, ".js-plotly-plot");

  // ---- light and dark -------------------------------------------------------------------------------------------------
  const dark = matchMedia("(prefers-color-scheme: dark)"), choice = document.getElementById("theme");
  function paint(wanted) { root.dataset.theme = wanted === "auto" ? (dark.matches ? "dark" : "light") : wanted; }
  if (choice) {
    choice.value = root.dataset.choice || "auto";
    choice.addEventListener("change", function () {
      paint(choice.value);
      try { localStorage.setItem("workbench-theme", choice.value); } catch (error) { /* a file may have no storage */ }
    });
    dark.addEventListener("change", function () { paint(choice.value); });
  }

  // ---- what a language filter hides in a figure -----------------------------------------------------------------------
  const types = { f4: Float32Array, f8: Float64Array, i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array };
  function numbers(given) {  // plotly's compact arrays, as plain ones; rows of rows for a heat map
    if (!given || !given.bdata) return given == null ? [] : Array.from(given, (row) => (row && row.length && typeof row !== "string" ? Array.from(row) : row));
    const bytes = Uint8Array.from(atob(given.bdata), (c) => c.charCodeAt(0)), flat = Array.from(new types[given.dtype](bytes.buffer));
    const shape = given.shape ? String(given.shape).split(",").map(Number) : [flat.length];
    if (shape.length < 2) return flat;
    return Array.from({ length: shape[0] }, (_, i) => flat.slice(i * shape[1], (i + 1) * shape[1]));
  }
  const hidden = new Set(), kept = new WeakMap();
  function masked(plot, i, meta) {
    const key = meta.rows ? "z" : "x", store = kept.get(plot) || kept.set(plot, new Map()).get(plot);
    const entry = store.get(i) || store.set(i, {}).get(i);
    if (!entry.given || entry.given !== plot.data[i][key]) entry.whole = plot.data[i][key];  // drawn anew since: by a slider or a menu
    const which = meta.rows || meta.of, whole = numbers(entry.whole);
    const gone = (at) => hidden.has(typeof which === "string" ? which : which[at]);
    entry.given = whole.map((value, at) => (gone(at) ? (meta.rows ? value.map(() => null) : null) : value));
    return [key, entry.given];
  }
  function marks(plot) {
    const meta = plot.layout.meta || {}, change = {};
    for (const [axis, tags] of Object.entries(meta.ticks || {})) {
      const given = plot.layout[axis], names = (given.wholeTicks = given.wholeTicks || Array.from(given.ticktext));
      change[axis + ".ticktext"] = names.map((name, i) => (hidden.has(tags[i]) ? "" : name));
    }
    for (const kind of ["annotations", "shapes"])
      for (const [i, tag] of Object.entries(meta[kind] || {})) change[kind + "[" + i + "].visible"] = !hidden.has(tag);
    return change;
  }
  function filtered(plot) {
    const x = [[], []], z = [[], []];
    plot.data.forEach(function (trace, i) {
      if (!trace.meta || !(trace.meta.of || trace.meta.rows)) return;
      const [key, values] = masked(plot, i, trace.meta), into = key === "z" ? z : x;
      into[0].push(values); into[1].push(i);
    });
    let done = Promise.resolve();
    if (x[1].length) done = done.then(() => Plotly.restyle(plot, { x: x[0] }, x[1]));
    if (z[1].length) done = done.then(() => Plotly.restyle(plot, { z: z[0] }, z[1]));
    const change = marks(plot);
    if (Object.keys(change).length) done = done.then(() => Plotly.relayout(plot, change));
    return done;
  }
  let round = 0;
  async function filter() {
    const mine = ++round, boxes = all(document, "#filter input[type=checkbox]");
    hidden.clear();
    boxes.forEach((box) => { if (!box.checked) hidden.add(box.value); });
    all(document, "[data-language]").forEach((row) => { row.hidden = hidden.has(row.dataset.language); });
    all(document, "details.open-row").forEach((row) => { if (row.hidden) row.open = false; });
    const told = document.getElementById("filter-count");
    if (told) told.textContent = hidden.size ? boxes.length - hidden.size + " of " + boxes.length : "all " + boxes.length;
    root.dataset.filtering = "yes";
    const near = (plot) => { const box = plot.getBoundingClientRect(); return box.bottom > 0 && box.top < innerHeight ? 0 : 1; };
    for (const plot of drawn().sort((a, b) => near(a) - near(b))) {
      if (mine !== round) return;  // asked anew meanwhile
      await filtered(plot);
    }
    delete root.dataset.filtering;
  }
  all(document, "#filter input[type=checkbox]").forEach((box) => box.addEventListener("change", filter));
  all(document, "#filter button").forEach((button) => button.addEventListener("click", function () {
    const tier = button.dataset.tier;
    all(document, "#filter input[type=checkbox]").forEach((box) => { box.checked = tier === "all" || (tier !== "none" && box.dataset.tier === tier); });
    filter();
  }));
  const panel = document.getElementById("filter");
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && panel && panel.open) { panel.open = false; panel.querySelector("summary").focus(); }
  });
  addEventListener("click", (event) => { if (panel && panel.open && !panel.contains(event.target)) panel.open = false; });

  // ---- sliders and menus of figures, as controls that a keyboard reaches ----------------------------------------------
  let count = 0;
  function control(plot, label, made) {
    const box = document.createElement("div"), name = document.createElement("label");
    box.className = "control";
    made.id = "control-" + ++count;
    name.htmlFor = made.id; name.textContent = label;
    box.append(name, made);
    const frame = plot.closest(".plot");
    frame.insertBefore(box, Array.from(frame.children).find((child) => child.contains(plot)));  // not inside: the figure's box has a fixed height
    return box;
  }
  function slider(plot, given) {
    const range = document.createElement("input"), shown = document.createElement("output");
    const label = ((given.currentvalue || {}).prefix || "step").trim(), names = given.steps.map((step) => step.label);
    Object.assign(range, { type: "range", min: 0, max: names.length - 1, step: 1, value: given.active || 0 });
    const say = () => { shown.textContent = names[range.value]; range.setAttribute("aria-valuetext", label + " " + names[range.value]); };
    let busy = Promise.resolve();
    range.addEventListener("input", function () {
      say();
      const step = given.steps[range.value];
      busy = busy.then(() => Plotly.animate(plot, step.args[0], step.args[1])).catch(() => {}).then(() => { if (hidden.size) return filtered(plot); });
    });
    say();
    control(plot, label, range).append(shown);
    return { "sliders[0].visible": false, "margin.b": Math.max((plot.layout.margin || {}).b || 0, 72) };  // the slider left room for axis titles
  }
  function menu(plot, given, i) {
    const select = document.createElement("select");
    given.buttons.forEach((button, at) => select.add(new Option(button.label, at, at === (given.active || 0), at === (given.active || 0))));
    select.addEventListener("change", function () {
      const button = given.buttons[select.value];
      Promise.resolve(Plotly[button.method](plot, ...button.args)).then(() => { if (hidden.size) return filtered(plot); });
    });
    control(plot, "show", select);
    return { ["updatemenus[" + i + "].visible"]: false };
  }
  function controls(plot) {
    const layout = plot.layout || {};
    let change = {};
    if (layout.sliders && layout.sliders.length) Object.assign(change, slider(plot, layout.sliders[0]));
    (layout.updatemenus || []).forEach((given, i) => Object.assign(change, menu(plot, given, i)));
    return Object.keys(change).length ? Plotly.relayout(plot, change) : null;
  }
  function described(plot) {
    const figure = plot.closest("figure"), caption = figure && figure.querySelector("figcaption");
    plot.setAttribute("role", "img");
    if (caption) { caption.id = caption.id || "caption-" + plot.id; plot.setAttribute("aria-labelledby", caption.id); }
  }
  function reachable() {  // what scrolls within its box must scroll by keyboard too
    all(document, ".scroll, figure .plot, nav .links").forEach((box) => {
      const wide = box.scrollWidth > box.clientWidth + 1;
      box.classList.toggle("wider", wide);
      if (wide && !box.matches(".links")) box.tabIndex = 0; else box.removeAttribute("tabindex");
    });
  }
  addEventListener("resize", reachable);
  addEventListener("load", function () {
    drawn().forEach((plot) => { controls(plot); described(plot); });
    reachable();
    all(document, "details").forEach((box) => box.addEventListener("toggle", () => { all(box, ".js-plotly-plot").forEach((plot) => Plotly.Plots.resize(plot)); reachable(); }));
    if (all(document, "#filter input:not(:checked)").length) filter();  // a browser may keep what was ticked before a reload
    root.dataset.ready = "yes";
  });

  // ---- paper is white -------------------------------------------------------------------------------------------------
  addEventListener("beforeprint", function () { root.dataset.theme = "light"; drawn().forEach((plot) => Plotly.Plots.resize(plot)); });
  addEventListener("afterprint", function () { paint(choice ? choice.value : "auto"); });
})();
