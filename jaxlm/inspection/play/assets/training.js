"use strict";
// The tab "train": the lecture's NPLM and LSTM learn three sentences while one watches.

const Training = (() => {
  const { content, el, t, number, percent } = Frame;
  const NAMES = ["nplm", "lstm"];
  const PAUSE = 5000; // the lecture's number of steps
  const COST = 1000; // steps between two lines of the lecture's log
  const POINTS = 400; // points of a curve, at most
  const MOST_WORDS = 200;
  const setting = { language: null, text: null, rate: 0.1, seed: 1, hidden: 2, steps: 2, all: false, speed: 10, running: false };
  let made = null; // {words, rows, short, models: {name: {learner, adam, curve, every, trail, costs}}, count}
  let refs = null;
  let frame = null;

  function reset() {
    const { words, rows, short } = Learning.rowsOf(setting.text, setting.steps, setting.all);
    made = { words, rows, short, count: 0, models: {} };
    if (!rows.length || words.length > MOST_WORDS) return;
    for (const name of NAMES) {
      const sizes = { words: words.length, features: 2, hidden: setting.hidden, steps: setting.steps };
      const learner = new Learning.MODELS[name](sizes, Numbers.generator(setting.seed));
      const { loss } = learner.gradient(rows);
      made.models[name] = { learner, adam: new Learning.Adam(learner), curve: [[0, loss]], every: 1, trail: [], costs: [], loss };
    }
  }

  const possible = () => Object.keys(made.models).length > 0;

  function step() {
    made.count += 1;
    for (const model of Object.values(made.models)) {
      const { loss, grads } = model.learner.gradient(made.rows);
      model.adam.step(model.learner.params, grads, setting.rate);
      model.loss = loss;
      if (made.count % model.every === 0) {
        model.curve.push([made.count, loss]);
        model.trail.push(Float32Array.from(model.learner.params["embedding/embedding"]));
      }
      if (model.curve.length > POINTS) {
        const half = (_, index) => index % 2 === 0;
        model.curve = model.curve.filter(half);
        model.trail = model.trail.filter(half);
        model.every *= 2;
      }
      if (made.count % COST === 0) model.costs.push([made.count, loss]);
    }
  }

  function run() {
    cancelAnimationFrame(frame);
    if (!setting.running) return;
    const begin = performance.now();
    for (let i = 0; i < setting.speed && performance.now() - begin < 25; i++) {
      step();
      if (made.count % PAUSE === 0) {
        setting.running = false;
        break;
      }
    }
    draw();
    if (setting.running) frame = requestAnimationFrame(run);
  }

  function toggle() {
    if (!possible()) return;
    setting.running = !setting.running;
    draw();
    run();
  }

  function many(count) {
    if (!possible()) return;
    setting.running = false;
    for (let i = 0; i < count; i++) step();
    draw();
  }

  function again() {
    setting.running = false;
    reset();
    draw();
  }

  // ---- pictures -------------------------------------------------------------------------------------
  function drawCurve(element, { curve }) {
    const height = 150;
    const { context, width } = Frame.canvas(element, height);
    const [left, right, top, bottom] = [46, 8, 8, 22];
    const losses = curve.map(([, loss]) => Math.max(loss, 1e-8));
    let low = Math.floor(Math.log10(Math.min(...losses)));
    let high = Math.ceil(Math.log10(Math.max(...losses)));
    if (low === high) low -= 1;
    high = Math.max(high, low + 1);
    const last = Math.max(curve[curve.length - 1][0], 10);
    const x = (count) => left + (count / last) * (width - left - right);
    const y = (loss) => top + ((high - Math.log10(Math.max(loss, 1e-8))) / (high - low)) * (height - top - bottom);
    context.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    context.strokeStyle = Frame.variable("--rule");
    context.fillStyle = Frame.variable("--faint");
    context.textAlign = "right";
    for (let power = low; power <= high; power++) {
      context.beginPath();
      context.moveTo(left, y(10 ** power));
      context.lineTo(width - right, y(10 ** power));
      context.stroke();
      context.fillText(power < -3 ? `1e${power}` : String(Number((10 ** power).toPrecision(1))), left - 6, y(10 ** power) + 4);
    }
    context.fillText(String(last), width - right, height - 5);
    context.textAlign = "left";
    context.fillText("0", left, height - 5);
    context.strokeStyle = Frame.series(0);
    context.lineWidth = 2;
    context.beginPath();
    curve.forEach(([count, loss], index) => context[index ? "lineTo" : "moveTo"](x(count), y(loss)));
    context.stroke();
  }

  function drawMap(element, { learner, trail }) {
    const height = 240;
    const { context, width } = Frame.canvas(element, height);
    const points = learner.params["embedding/embedding"];
    let most = 1;
    for (const value of points) most = Math.max(most, Math.abs(value));
    const scale = Math.min(width / 2 - 40, height / 2 - 18) / most;
    const place = (array, id) => [width / 2 + array[2 * id] * scale, height / 2 - array[2 * id + 1] * scale];
    context.strokeStyle = Frame.variable("--rule");
    context.beginPath();
    context.moveTo(0, height / 2);
    context.lineTo(width, height / 2);
    context.moveTo(width / 2, 0);
    context.lineTo(width / 2, height);
    context.stroke();
    context.font = `14px ${getComputedStyle(document.body).fontFamily}`;
    made.words.forEach((word, id) => {
      context.strokeStyle = Frame.series(0);
      context.globalAlpha = 0.3;
      context.lineWidth = 1;
      context.beginPath();
      trail.forEach((array, index) => context[index ? "lineTo" : "moveTo"](...place(array, id)));
      context.stroke();
      context.globalAlpha = 1;
    });
    const taken = [];
    const apart = (a, b) => a.right < b.left || b.right < a.left || a.bottom < b.top || b.bottom < a.top;
    made.words.forEach((word, id) => {
      const [x, y] = place(points, id);
      taken.push({ left: x - 4, right: x + 4, top: y - 4, bottom: y + 4 });
    });
    made.words.forEach((word, id) => {
      const [x, y] = place(points, id);
      context.fillStyle = Frame.series(1);
      context.beginPath();
      context.arc(x, y, 4, 0, 2 * Math.PI);
      context.fill();
      context.fillStyle = Frame.variable("--ink");
      context.textAlign = "left";
      const wide = context.measureText(word).width;
      // The first place beside the point that covers nothing, or else the last one.
      const places = [[7, -4], [7, 14], [-7 - wide, -4], [-7 - wide, 14], [-wide / 2, -9], [-wide / 2, 20]];
      const boxes = places.map(([dx, dy]) => ({ left: x + dx, right: x + dx + wide, top: y + dy - 12, bottom: y + dy + 3 }));
      const free = (box) => box.left > 0 && box.right < width && taken.every((other) => apart(box, other));
      const box = boxes.find(free) || boxes[id % boxes.length];
      taken.push(box);
      context.fillText(word, box.left, box.bottom - 3);
    });
  }

  function drawPredictions(list, { learner }) {
    const examples = made.rows.flatMap(({ tokens, targets }) => targets.map(([place, id]) => ({ tokens, place, id }))).slice(0, 12);
    list.replaceChildren(...examples.map(({ tokens, place, id }) => {
      const probabilities = learner.next(tokens, place);
      const [best] = Numbers.largest(probabilities, 1);
      const p = probabilities[best];
      const right = best === id;
      const context = tokens.slice(0, place + 1).map((token) => made.words[token]).join(" ");
      return el("li", { "data-true": made.words[id], "data-best": made.words[best], "data-probability": probabilities[id] },
        el("span", { dir: "auto" }, `${context} → `), el("b", { dir: "auto" }, made.words[best]),
        el("span", { class: "bar" }, el("i", { style: { width: `${100 * p}%` } })),
        el("span", { class: "p" }, percent(p)),
        el("span", { class: right ? "right" : "wrong", "aria-label": t(right ? "train.right" : "train.wrong", { word: made.words[id] }) }, right ? "✓" : `✗ ${made.words[id]}`));
    }));
  }

  function draw() {
    if (!refs || !refs.start.isConnected) return;
    refs.start.textContent = t(setting.running ? "train.pause" : "train.start");
    refs.start.setAttribute("aria-pressed", String(setting.running));
    refs.count.textContent = t("train.count", { count: made.count.toLocaleString("en") });
    refs.count.dataset.count = String(made.count);
    const notes = [];
    if (!made.rows.length) notes.push(t("train.nothing", { words: setting.steps + 1 }));
    else if (made.short) notes.push(t("train.short", { lines: made.short, words: setting.steps + 1 }));
    if (made.words.length > MOST_WORDS) notes.push(t("train.large", { words: MOST_WORDS }));
    refs.note.textContent = notes.join(" ");
    for (const name of NAMES) {
      const model = made.models[name];
      const column = refs.columns[name];
      column.body.hidden = !model;
      if (!model) continue;
      column.loss.textContent = t("train.loss", { loss: number(model.loss, model.loss < 0.01 ? 6 : 4) });
      column.loss.dataset.loss = String(model.loss);
      column.costs.textContent = model.costs.slice(-5).map(([count, loss]) => `${String(count).padStart(5)}  cost = ${loss.toFixed(6)}`).join("\n");
      drawCurve(column.curve, model);
      drawMap(column.map, model);
      drawPredictions(column.predictions, model);
    }
  }

  // ---- the tab --------------------------------------------------------------------------------------
  function column(name) {
    const parts = {
      loss: el("p", { class: "line" }),
      costs: el("pre", { class: "costs" }),
      curve: el("canvas", { role: "img", "aria-label": t("train.curve") }),
      map: el("canvas", { role: "img", "aria-label": t("train.map") }),
      predictions: el("ul", { class: "predictions" }),
    };
    const curve = Frame.data(t("train.curve"), () => ({ headers: [t("table.step"), t("table.loss")], rows: made.models[name].curve.map(([count, loss]) => [count, loss]) }));
    const map = Frame.data(t("train.map"), () => ({
      headers: [t("table.token"), "x", "y"],
      rows: made.words.map((word, id) => [word, ...Array.from(made.models[name].learner.params["embedding/embedding"].subarray(2 * id, 2 * id + 2))]),
    }));
    parts.body = el("div", {}, parts.loss,
      el("h4", {}, t("train.predictions")), parts.predictions,
      el("div", { class: "row" }, el("h4", {}, t("train.curve")), curve.button), parts.curve, parts.costs, curve.place,
      el("div", { class: "row" }, el("h4", {}, t("train.map")), map.button), parts.map, map.place);
    parts.element = el("article", { class: "card", "data-learner": name }, el("header", {}, el("h3", {}, name.toUpperCase())), el("p", { class: "note formula" }, t(`train.about.${name}`)), parts.body);
    return parts;
  }

  function choice(name, values, texts) {
    const select = el("select", {
      id: `train-${name}`,
      onchange: (event) => {
        setting[name] = Number(event.target.value);
        if (name !== "speed") again();
      },
    }, values.map((value, index) => el("option", { value, selected: value === setting[name] }, texts ? texts[index] : String(value))));
    return el("label", {}, el("span", {}, t(`train.${name}`)), select);
  }

  function render(section) {
    if (setting.text === null || (setting.language !== null && setting.language !== Frame.state.lang)) {
      // Sentences that nobody has edited follow the language of the page.
      setting.language = Frame.state.lang;
      setting.text = content.sentences[setting.language].trimEnd();
      setting.running = false;
      reset();
    }
    const area = el("textarea", { id: "sentences", rows: 4, maxlength: 2000, spellcheck: "false", dir: "auto" });
    area.value = setting.text;
    area.addEventListener("input", (event) => {
      if (event.isComposing) return;
      setting.language = null;
      setting.text = area.value;
      again();
    });
    area.addEventListener("compositionend", () => area.dispatchEvent(new Event("input")));
    const rate = el("input", { type: "range", id: "train-rate", min: -3, max: 0, step: 0.1, value: Math.log10(setting.rate) });
    const rateOut = el("output", {}, number(setting.rate, 3));
    rate.addEventListener("input", () => {
      setting.rate = 10 ** Number(rate.value);
      rateOut.textContent = number(setting.rate, 3);
    });
    const seed = el("input", { type: "number", id: "train-seed", min: 0, max: 4294967295, step: 1, value: setting.seed, inputmode: "numeric" });
    seed.addEventListener("input", () => {
      if (!(seed.value !== "" && seed.checkValidity())) return;
      setting.seed = Number(seed.value);
      again();
    });
    const all = el("input", { type: "checkbox", id: "train-all", checked: setting.all });
    all.addEventListener("change", () => {
      setting.all = all.checked;
      again();
    });
    refs = {
      start: el("button", { type: "button", class: "main", id: "train-start", onclick: toggle }),
      count: el("span", { class: "name", role: "status" }),
      note: el("p", { class: "warning", role: "status" }),
      columns: Object.fromEntries(NAMES.map((name) => [name, column(name)])),
    };
    section.replaceChildren(
      el("p", { class: "lead" }, t("train.lead")),
      el("label", { for: "sentences", class: "name" }, t("train.text")), area, refs.note,
      el("div", { class: "controls" },
        el("div", { class: "row" }, refs.start, el("button", { type: "button", id: "train-step", onclick: () => many(1) }, t("train.step")),
          el("button", { type: "button", id: "train-hundred", onclick: () => many(100) }, t("train.hundred")),
          el("button", { type: "button", id: "train-reset", onclick: again }, t("train.reset")), refs.count),
        el("div", { class: "row" }, el("label", {}, el("span", {}, t("train.rate")), rate, rateOut), choice("speed", [1, 10, 1000], [t("train.speed.slow"), t("train.speed.middle"), t("train.speed.fast")]),
          el("label", {}, el("span", {}, t("seed")), seed), choice("steps", [1, 2, 3, 4]), choice("hidden", [2, 3, 4, 8, 16]),
          el("label", { class: "check" }, all, el("span", {}, t("train.all"))))),
      el("div", { class: "cards two" }, NAMES.map((name) => refs.columns[name].element)),
      el("p", { class: "note" }, t("train.note")));
    draw();
  }

  return { render, draw, many, setting, made: () => made, stop: () => { setting.running = false; draw(); } };
})();
