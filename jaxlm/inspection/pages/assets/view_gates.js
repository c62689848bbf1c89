"use strict";
// A strip of gates and states on a canvas: a band for each array of a layer, a row for each unit, a column
// for each token. Only the visible columns are drawn; units that are not shown are nowhere in the page.
jaxlm.view("gates", (() => {
  let data, tools, frame, strip, scroller, canvas, spacer, labels, readout, controls, foundBox, copy, holder, title, columns, queued = false;
  const chosen = {layer: 0, array: null, unit: null, order: null, shown: 16};
  const TOKENS = 26, LINE = 78, GAP = 6, BAND = 96;
  let bands = [], rows = [], tops = [], images = [], turns = 0;

  const run = () => data.runs[tools.state.run];
  const layer = () => run().layers[Math.min(chosen.layer, run().layers.length - 1)];
  const arrayName = (array) => {
    const key = `gates.${array.kind}.${array.name}`;
    return tools.page.texts[key] ? tools.t(key) : array.name;
  };
  const featureName = (name) => (tools.page.texts[`gates.feature.${name}`] ? tools.t(`gates.feature.${name}`) : name);
  const current = () => layer().arrays.find((a) => a.name === chosen.array) || layer().arrays[0];
  const digits = () => (run().bits === 16 ? 3 : 2);
  const text = (index) => tools.tokenText(tools.state.run, index);
  function column(array, unit) {
    const values = tools.array(array.values), width = array.values.shape[1], found = new Float32Array(array.values.shape[0]);
    for (let k = 0; k < found.length; k++) found[k] = values[k * width + unit];
    return found;
  }
  // The largest size of each unit of an array, or 1 if all values are between -1 and 1. The least and the
  // largest value of a unit are known without its values.
  const limits = new WeakMap();
  function limitsOf(array) {
    if (!limits.has(array)) {
      const {low, step, dtype} = array.values, levels = dtype === "uint16" ? 65535 : 255;
      const found = Float32Array.from(low, (least, u) => Math.max(Math.abs(least), step[u] === 1 ? 0 : Math.abs(least + levels * step[u])));
      limits.set(array, found.every((x) => x <= 1.001) ? found.fill(1) : found.map((x) => x || 1));
    }
    return limits.get(array);
  }
  function change(array) {
    const values = tools.array(array.values), [count, width] = array.values.shape, sum = new Float64Array(width), limit = limitsOf(array);
    for (let k = 1; k < count; k++) for (let u = 0; u < width; u++) sum[u] += Math.abs(values[k * width + u] - values[(k - 1) * width + u]) / limit[u];
    return sum;
  }
  function sorted() {
    const units = layer().units.map((_, k) => k).filter((k) => k < current().values.shape[1]), array = current();
    // Another run may have other properties.
    if (chosen.order !== "change" && !(run().features.includes(chosen.order) && tools.array(array.follows).length)) chosen.order = "number";
    if (chosen.order === "number") return units;
    let by;
    if (chosen.order === "change") by = change(array);
    else {
      const index = run().features.indexOf(chosen.order), width = array.values.shape[1];
      by = Float32Array.from(tools.array(array.follows).slice(index * width, (index + 1) * width), (r) => (Number.isNaN(r) ? 0 : Math.abs(r)));
    }
    return units.sort((a, b) => by[b] - by[a] || a - b);
  }

  // ---- pictures ----
  function prepare() {
    const order = sorted(), all = order.length;
    rows = order.slice(0, Math.min(chosen.shown, all));
    if (chosen.unit === null || !order.includes(chosen.unit)) chosen.unit = rows[0];
    // The chosen unit is always shown, above the others if its turn has not come.
    if (!rows.includes(chosen.unit)) rows = [chosen.unit, ...rows.slice(0, -1)];
    const table = new Uint8Array(3 * 256);
    for (let k = 0; k < 256; k++) table.set(tools.colour.divergingRGB((k - 127.5) / 127.5), 3 * k);
    bands = layer().arrays;
    images = bands.map(() => null);
    // The chosen array is drawn at once, each other one in a task of its own.
    const turn = ++turns, make = (index) => { images[index] = picture(bands[index], table); };
    make(bands.indexOf(current()));
    if (tools.printing()) bands.forEach((_, index) => make(index));
    bands.forEach((_, index) => { if (!images[index]) setTimeout(() => { if (turn === turns) { make(index); queue(); } }); });
    const counts = bands.map((array) => rows.filter((u) => u < array.values.shape[1]).length);
    const height = Math.max(1, Math.min(16, Math.floor(BAND / rows.length)));
    tops = []; let y = TOKENS + LINE + GAP;
    for (const count of counts) { tops.push({top: y, height: Math.max(22, height * count), rows: Math.max(1, count)}); y += Math.max(22, height * count) + GAP; }
    canvas.style.height = `${y}px`;
    frame.style.setProperty("--strip-height", `${y}px`);
  }
  function picture(array, table) {
    const values = tools.array(array.values), [count, width] = array.values.shape, limit = limitsOf(array), here = rows.filter((u) => u < width);
    const image = new ImageData(count, Math.max(1, here.length));
    here.forEach((unit, row) => {
      for (let k = 0; k < count; k++) {
        const shade = 3 * Math.min(255, Math.max(0, Math.round(127.5 + (127.5 * values[k * width + unit]) / limit[unit]))), at = 4 * (row * count + k);
        image.data[at] = table[shade]; image.data[at + 1] = table[shade + 1]; image.data[at + 2] = table[shade + 2]; image.data[at + 3] = 255;
      }
    });
    const drawn = document.createElement("canvas");
    drawn.width = image.width; drawn.height = image.height;
    drawn.getContext("2d").putImageData(image, 0, 0);
    return drawn;
  }
  const widths = new Map();
  function measure() {
    const pen = canvas.getContext("2d"), count = tools.length(tools.state.run);
    pen.font = font();
    columns = new Float64Array(count + 1);
    for (let k = 0; k < count; k++) {
      const shown = tools.visible(text(k));
      if (!widths.has(shown)) widths.set(shown, Math.min(150, Math.max(14, Math.ceil(pen.measureText(shown).width) + (shown.length > 1 ? 8 : 4))));
      columns[k + 1] = columns[k] + widths.get(shown);
    }
    // A short text takes more of the width.
    const wider = Math.max(1, Math.min(3, (scroller.clientWidth * 0.98) / columns[count]));
    if (wider > 1) columns = columns.map((x) => Math.floor(x * wider));
    spacer.style.width = `${columns[count]}px`;
  }
  const font = () => `13px ${getComputedStyle(document.body).fontFamily}`;
  function at(x) {
    let low = 0, high = columns.length - 2;
    while (low < high) { const middle = (low + high + 1) >> 1; if (columns[middle] <= x) low = middle; else high = middle - 1; }
    return Math.max(0, low);
  }
  function paint() {
    queued = false;
    if (!canvas || !canvas.isConnected || !run().layers) return;
    const width = scroller.clientWidth, height = parseFloat(canvas.style.height), ratio = Math.min(3, devicePixelRatio || 1);
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
      canvas.style.width = `${width}px`;
    }
    const pen = canvas.getContext("2d"), left = scroller.scrollLeft, first = at(left), last = Math.min(columns.length - 2, at(left + width));
    const style = getComputedStyle(document.body), ink = style.getPropertyValue("--ink"), faint = style.getPropertyValue("--faint"), mark = style.getPropertyValue("--mark"), rule = style.getPropertyValue("--rule");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.imageSmoothingEnabled = false;
    const scores = tools.page.views.surprise ? tools.page.views.surprise.runs[tools.state.run] : null, bits = scores ? tools.array(scores.surprisal) : [];
    pen.font = font(); pen.textAlign = "center"; pen.textBaseline = "middle";
    for (let k = first; k <= last; k++) {
      const x = columns[k] - left, w = columns[k + 1] - columns[k];
      const painted = tools.state.paint;
      const rgb = painted ? tools.colour.divergingRGB(painted.values[k] / painted.limit) : scores && bits[k] === bits[k] ? tools.colour.sequentialRGB(bits[k] / scores.limits[2]) : null;
      if (rgb) { pen.fillStyle = `rgb(${rgb})`; pen.fillRect(x, 0, w, TOKENS - 3); }
      pen.fillStyle = rgb ? tools.colour.ink(rgb) : ink;
      pen.fillText(tools.visible(text(k)), x + w / 2, TOKENS / 2 - 1, w - 1);
    }
    // The chosen unit as a line.
    const array = current(), values = column(array, chosen.unit), limit = limitsOf(array)[chosen.unit], positive = values.every((v) => v >= -1e-6), low = positive ? 0 : -limit, high = limit;
    const y = (v) => TOKENS + 6 + (LINE - 14) * (1 - (v - low) / (high - low));
    pen.lineWidth = 1; pen.strokeStyle = rule;
    for (const v of positive ? [0, limit / 2, limit] : [-limit, 0, limit]) { pen.beginPath(); pen.moveTo(0, Math.round(y(v)) + 0.5); pen.lineTo(Math.min(width, columns[columns.length - 1] - left), Math.round(y(v)) + 0.5); pen.stroke(); }
    pen.strokeStyle = ink; pen.lineWidth = 2; pen.lineJoin = "round"; pen.beginPath();
    for (let k = Math.max(0, first - 1); k <= Math.min(values.length - 1, last + 1); k++) {
      const x = (columns[k] + columns[k + 1]) / 2 - left;
      if (k === Math.max(0, first - 1)) pen.moveTo(x, y(values[k])); else pen.lineTo(x, y(values[k]));
    }
    pen.stroke();
    // The bands.
    const end = Math.min(width, columns[columns.length - 1] - left);
    bands.forEach((band, index) => {
      const {top, height: tall} = tops[index], image = images[index];
      if (!image) return;
      const uniform = columns[last + 1] - columns[first] === (last + 1 - first) * (columns[first + 1] - columns[first]);
      if (uniform) pen.drawImage(image, first, 0, last + 1 - first, image.height, columns[first] - left, top, columns[last + 1] - columns[first], tall);
      else for (let k = first; k <= last; k++) pen.drawImage(image, k, 0, 1, image.height, columns[k] - left, top, columns[k + 1] - columns[k], tall);
      pen.strokeStyle = band === array ? ink : rule; pen.lineWidth = band === array ? 2 : 1;
      pen.strokeRect(-2, top - 0.5, end + 2, tall + 1);
      const row = rows.indexOf(chosen.unit);
      if (row >= 0 && row < image.height && image.height > 1) {
        const thick = tall / image.height;
        pen.strokeStyle = band === array ? mark : faint; pen.lineWidth = 1;
        pen.strokeRect(-2, top + row * thick - 0.5, end + 2, thick + 1);
      }
    });
    const token = tools.state.token;
    if (token < columns.length - 1) {
      pen.strokeStyle = mark; pen.lineWidth = 2;
      pen.strokeRect(columns[token] - left, 1, columns[token + 1] - columns[token], height - GAP - 1);
    }
  }
  function queue() { if (tools.printing()) paint(); else if (!queued) { queued = true; requestAnimationFrame(paint); } }
  function reveal() {
    const token = Math.min(tools.state.token, columns.length - 2), from = columns[token], to = columns[token + 1];
    if (from < scroller.scrollLeft || to > scroller.scrollLeft + scroller.clientWidth) scroller.scrollLeft = Math.max(0, (from + to - scroller.clientWidth) / 2);
  }

  // ---- around the strip ----
  function choose(patch, paints) {
    Object.assign(chosen, patch);
    prepare();
    drawLabels();
    queue();
    if (!paints) { drawReadout(); return; }
    tools.select({...paints, paint: paintOf(layer(), current(), chosen.unit)});
    drawReadout();
  }
  // The colours of the text by the unit at a place of an array.
  function paintOf(layer_, array, place) {
    const run_ = tools.state.run, unit = layer_.units[place];
    return {run: run_, layer: layer_.name, array: array.name, unit, values: column(array, place), limit: limitsOf(array)[place],
      name: () => tools.t("gates.paint", {run: tools.runs[run_].label, layer: layer_.name, unit, array: arrayName(array)})};
  }
  function drawLabels() {
    const {el, t} = tools;
    labels.replaceChildren(el("span", {class: "line-label", style: {top: `${TOKENS}px`, height: `${LINE}px`}}, t("gates.line", {unit: layer().units[chosen.unit], array: arrayName(current())})),
      ...bands.map((array, index) => el("button", {type: "button", "aria-pressed": String(array === current()), "data-array": array.name, style: {top: `${tops[index].top}px`, height: `${Math.max(22, tops[index].height)}px`}, onclick: () => choose({array: array.name}, {})}, arrayName(array),
        opens(array) && tops[index].height > 48 ? el("small", {}, t("gates.shade", {high: t(`gates.say.${array.name}.high`), low: t(`gates.say.${array.name}.low`)})) : "")));
  }
  function drawReadout() {
    const {el, t, state, number} = tools, index = state.token, unit = layer().units[chosen.unit], last = index >= tools.length(state.run);
    readout.dataset.unit = unit; readout.dataset.token = index; readout.dataset.layer = layer().name;
    readout.replaceChildren(el("strong", {}, last ? t("gates.at.end", {unit}) : t("gates.at", {unit, token: tools.brief(text(index))})),
      last ? "" : el("ul", {class: "values"}, bands.filter((array) => chosen.unit < array.values.shape[1]).map((array) => {
        const value = tools.value(array.values, index * array.values.shape[1] + chosen.unit), step = value > 0.75 ? "open" : value < 0.25 ? "closed" : "half", say = `gates.say.${array.name}.${step === "open" ? "high" : "low"}`;
        return el("li", {"data-array": array.name, "data-value": value}, `${arrayName(array)} `, el("b", {}, number(value, digits())), opens(array) ? ` ${t(`gates.${step}`, {say: t(say)})}` : "");
      })));
  }
  function drawControls() {
    const {el, t, state} = tools, having = tools.runs.map((r, k) => ({value: k, text: r.label})).filter((o) => data.runs[o.value].layers);
    const all = layer().units.length, features = tools.array(current().follows).length ? run().features : [];
    controls.replaceChildren(...[
      having.length > 1 ? tools.choice(t("gates.run"), having, state.run, (value) => tools.select({run: value, paint: null})) : null,
      run().layers.length > 1 ? tools.choice(t("gates.layer"), run().layers.map((l, k) => ({value: k, text: l.name})), chosen.layer, (value) => { chosen.layer = value; chosen.unit = null; refresh(); }) : null,
      all > 1 ? tools.choice(t("gates.order"), [{value: "number", text: t("gates.order.number")}, {value: "change", text: t("gates.order.change")}, ...features.map((name) => ({value: name, text: t("gates.order.feature", {feature: featureName(name)})}))], chosen.order, (value) => { chosen.order = value; chosen.unit = null; refresh(); }) : null,
      all > 8 ? tools.choice(t("gates.shown"), [8, 16, 32].filter((n) => n < all).map((n) => ({value: n, text: n})).concat([{value: Infinity, text: t("gates.all", {count: all})}]), chosen.shown >= all ? Infinity : chosen.shown, (value) => { chosen.shown = value; refresh(); }) : null,
    ].filter(Boolean));
  }
  function drawFound() {
    const {el, t, number} = tools, found = run().found || [];
    foundBox.replaceChildren();
    if (!found.length) {
      const count = tools.length(tools.state.run);
      foundBox.append(el("p", {class: "note"}, count < data.fewest ? t("gates.found.short", {count, fewest: data.fewest}) : t("gates.found.none")));
      return;
    }
    foundBox.append(tools.figure({title: t("gates.found"), description: t("gates.found.lead"), class: "found",
      body: el("dl", {}, found.map((item) => [el("dt", {}, featureName(item.feature)), el("dd", {}, item.units.slice(0, 3).map((u) => [
        el("button", {type: "button", "data-feature": item.feature, "data-unit": u.unit, "data-array": u.array, "data-layer": u.layer, "data-r": u.r, onclick: () => go(u, item.first)}, `${t("gates.unit", {unit: u.unit})}, ${u.layer}/${u.array}, r = ${number(u.r, 2)}`), " "]))])),
      table: () => ({headers: ["feature", "layer", "array", "unit", "r"].map((key) => t(`gates.head.${key}`)), rows: found.flatMap((item) => item.units.map((u) => [featureName(item.feature), u.layer, u.array, u.unit, u.r]))})}));
  }
  // The text once more, right below the buttons, in the colours of the unit that was chosen last, or else of
  // the unit that follows a property most closely.
  function drawCopy() {
    const {el, t, state} = tools, found = (run().found || []).flatMap((item) => item.units.map((u) => ({...u, first: item.first, feature: item.feature})));
    let painted = state.paint && state.paint.other === undefined && state.paint.run === state.run ? state.paint : null, first = null;
    if (!painted && found.length) {
      const best = found.reduce((a, b) => (Math.abs(b.r) > Math.abs(a.r) ? b : a)), of = run().layers.find((l) => l.name === best.layer);
      painted = paintOf(of, of.arrays.find((a) => a.name === best.array), of.units.indexOf(best.unit));
      first = best.first;
    }
    // Without buttons the strip alone shows the colours: a copy that comes at the first touch would move it.
    copy.holder.hidden = !found.length;
    if (!found.length) return;
    if (copy.run !== state.run) {
      const drawn = tools.drawTokens(state.run, "painted", null);
      copy.box.replaceChildren(drawn.pieces);
      Object.assign(copy, {run: state.run, tokens: drawn.tokens, colours: []});
    }
    tools.paintTokens(copy.tokens, copy.colours, (index) => tools.colour.divergingRGB(painted.values[index] / painted.limit));
    const same = (u) => u.layer === painted.layer && u.array === painted.array && u.unit === painted.unit, mine = found.filter(same);
    copy.name.replaceChildren(el("strong", {}, painted.name()), mine.length ? t("gates.follows", {list: mine.map((u) => `${featureName(u.feature)} (r = ${tools.number(u.r, 2)})`).join(state.lang === "zh" ? "、" : ", ")}) : "");
    Object.assign(copy.holder.dataset, {unit: painted.unit, array: painted.array, layer: painted.layer});
    copy.legend.replaceChildren(tools.scaleBar(true), tools.scaleEnds(painted.limit));
    for (const button of foundBox.querySelectorAll("[data-feature]")) button.setAttribute("aria-pressed", String(same({layer: button.dataset.layer, array: button.dataset.array, unit: Number(button.dataset.unit)})));
    if (first !== null) requestAnimationFrame(() => tools.reveal(copy.box, copy.tokens[first], true));
  }
  function showInCopy() {
    const selected = copy.tokens[tools.state.token];
    for (const span of copy.box.querySelectorAll(".selected")) span.classList.remove("selected");
    if (!selected) return;
    selected.classList.add("selected");
    requestAnimationFrame(() => tools.reveal(copy.box, selected));
  }
  function go(u, first) {
    const index = run().layers.findIndex((l) => l.name === u.layer);
    chosen.layer = index;
    chosen.array = u.array;
    drawControls();
    choose({unit: run().layers[index].units.indexOf(u.unit)}, {});
    drawTitle();
    tools.reveal(copy.box, copy.tokens[first], true);
  }
  const listed = (l) => l.arrays.map(arrayName).join(tools.state.lang === "zh" ? "、" : ", ");
  // What the shades mean at a gate that opens and closes, if the layer has one.
  const opens = (array) => array.kind === "gates" && tools.page.texts[`gates.say.${array.name}.high`];
  const shades = (l) => (l.arrays.some(opens) ? (tools.state.lang === "zh" ? "" : " ") + tools.t("gates.shades") + (tools.state.lang === "zh" ? "" : " ") + tools.t("gates.steps") : "");
  function drawTitle() {
    const {t} = tools, l = layer(), notes = [t("gates.bits", {bits: run().bits})];
    if (l.units.length < l.of) notes.unshift(t("gates.some", {kept: l.units.length, all: l.of}));
    if (l.arrays.some((a) => limitsOf(a).some((x) => x > 1.001))) notes.push(t("gates.own"));
    title.textContent = notes.join(tools.state.lang === "zh" ? "" : " ");
    const {state} = tools;
    strip.querySelector(".name").textContent = t("gates.chart", {run: tools.runs[state.run].label, layer: l.name});
    strip.querySelector(".described").textContent = t("gates.described", {arrays: listed(l)}) + shades(l);
  }
  function refresh() { drawControls(); measure(); choose({}, null); drawTitle(); reveal(); }
  function build() {
    const {el, t} = tools;
    holder.replaceChildren();
    const missing = run().missing;
    if (missing) {
      const having = tools.runs.map((r, k) => ({value: k, text: r.label})).filter((o) => data.runs[o.value].layers);
      holder.append(el("div", {class: "missing"}, el("p", {}, tools.said(missing)), tools.choice(t("gates.run"), having, null, (value) => tools.select({run: value, paint: null}))));
      canvas = null;
      return;
    }
    chosen.layer = Math.min(chosen.layer, run().layers.length - 1);
    if (!layer().arrays.some((a) => a.name === chosen.array)) chosen.array = (layer().arrays.find((a) => a.name === "forget") || layer().arrays[layer().arrays.length - 1]).name;
    if (chosen.order === null) chosen.order = "change";
    controls = el("div", {class: "choices"});
    foundBox = el("div", {});
    labels = el("div", {class: "labels"});
    canvas = el("canvas", {"aria-hidden": "true"});
    spacer = el("div", {class: "spacer"});
    scroller = el("div", {class: "strip", tabindex: 0, "data-own-keys": true, role: "group", "aria-label": t("gates.strip"), onscroll: queue, onkeydown: keys}, spacer, canvas);
    frame = el("div", {class: "strip-frame"}, labels, scroller);
    readout = el("div", {class: "readout gates-readout", role: "status", "aria-live": "polite"});
    title = el("p", {class: "note"});
    canvas.addEventListener("click", click);
    strip = tools.figure({title: t("gates.chart", {run: tools.runs[tools.state.run].label, layer: layer().name}), class: "gates",
      description: t("gates.described", {arrays: listed(layer())}) + shades(layer()), body: el("div", {}, readout, frame, title),
      table: () => ({headers: ["#", t("gates.head.token"), ...bands.map((a) => `${layer().name}/${a.name} ${layer().units[chosen.unit]}`)],
        rows: Array.from({length: tools.length(tools.state.run)}, (_, k) => [k, text(k), ...bands.map((a) => tools.array(a.values)[k * a.values.shape[1] + chosen.unit])])})});
    const pick = (event) => { const span = event.target.closest(".token"); if (span) tools.select({token: Number(span.dataset.token)}); };
    copy = {run: null, tokens: [], colours: [], name: el("p", {class: "note"}), legend: el("div", {class: "legend-scale"}),
      box: el("div", {class: "text", tabindex: 0, role: "group", "aria-label": t("gates.copy"), onclick: pick})};
    copy.holder = el("div", {class: "painted-copy"}, copy.name, el("div", {class: "text-frame"}, copy.box), copy.legend);
    holder.append(el("div", {class: "found-frame"}, foundBox, copy.holder), controls, strip);
    drawFound();
    drawCopy();
    refresh();
    new ResizeObserver(queue).observe(scroller);
  }
  function click(event) {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top, token = at(x + scroller.scrollLeft);
    const index = tops.findIndex((band) => y >= band.top && y < band.top + band.height);
    if (index < 0) { tools.select({token}); return; }
    const row = Math.min(tops[index].rows - 1, Math.floor(((y - tops[index].top) / tops[index].height) * tops[index].rows));
    choose({array: bands[index].name, unit: rows[row]}, {token});
  }
  function keys(event) {
    const move = {ArrowUp: -1, ArrowDown: 1}[event.key], step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (event.altKey || event.ctrlKey || event.metaKey || !(move || step)) return;
    event.preventDefault();
    if (step) tools.select({token: tools.state.token + step});
    else moveUnit(move);
  }
  function moveUnit(move) {
    const order = sorted();
    choose({unit: order[Math.min(order.length - 1, Math.max(0, order.indexOf(chosen.unit) + move))]}, {});
  }
  return {
    render(section, given, given_tools) {
      data = given; tools = given_tools;
      tools.state.moveUnit = moveUnit;
      section.append(tools.el("p", {class: "lead"}, tools.t("gates.intro")));
      holder = tools.el("div", {});
      section.append(holder);
      build();
    },
    update(state, changed) {
      if (changed.has("run")) { chosen.unit = null; chosen.layer = 0; build(); return; }
      if (!canvas) return;
      if (changed.has("paint")) drawCopy();
      if (changed.has("token")) { drawReadout(); reveal(); showInCopy(); }
      if (changed.has("token") || changed.has("paint")) queue();
    },
  };
})());
