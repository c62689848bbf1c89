"use strict";
// The map of the word vectors: pan, zoom, labels that do not cover one another, and the nearest
// words of the word under the pointer, in the search box, or selected in the text.
(() => {
  const { el, svg, visible } = jaxlm.tools;
  const { percent, textWidth, inPlace, placeOf } = jaxlm.charts;
  const kept = { run: 0, word: null, box: null };
  let live = null;

  /** Return the square region of the map that holds every point. */
  function whole(run) {
    const xs = run.points.map((p) => p[0]), ys = run.points.map((p) => p[1]);
    const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    // The frame is wider than high.
    const half = Math.max(0.46 * (right - left), 0.55 * (high - low), 1e-6);
    return { x: (left + right) / 2, y: (low + high) / 2, half };
  }

  function unpacked(run, tools) {
    const flat = tools.array(run.xy), near = tools.array(run.neighbours), cosines = tools.array(run.cosines);
    const k = run.neighbours.shape[1];
    return {
      ...run,
      points: run.words.map((_, i) => [flat[2 * i], flat[2 * i + 1]]),
      near: run.words.map((_, i) => Array.from({ length: k }, (_, j) => ({ id: near[i * k + j], cosine: cosines[i * k + j] })).filter((n) => n.id >= 0)),
      place: new Map(run.words.map((word, i) => [word, i])),
      named: (id) => (id < run.words.length ? run.words[id] : run.others[id - run.words.length]),
    };
  }

  /** Return the selected token of the text if it is a word on the map that has neighbours, or null. */
  function selected(run) {
    const name = jaxlm.tools.tokenText(run.index, placeOf(jaxlm.tools, run.index)), index = run.place.get(name);
    return /^\p{L}+$/u.test(name) && index !== undefined && run.near[index].length ? index : null;
  }

  function showIn(section, data, tools) {
    const { t } = tools;
    kept.run = Math.min(kept.run, data.runs.length - 1);
    const run = unpacked(data.runs[kept.run], tools);
    if (data.runs.length > 1) {
      section.append(tools.choice(t("vectors.choose"), data.runs.map((one, i) => ({ value: i, text: one.name })), kept.run, (value) => {
        Object.assign(kept, { run: value, box: null });
        section.replaceChildren();
        showIn(section, data, tools);
        section.querySelector(`.choice [data-value="${value}"]`)?.focus();
      }));
    }
    kept.box = kept.box || whole(run);
    const start = kept.word !== null && run.place.has(kept.word) ? run.place.get(kept.word) : selected(run) ?? run.first;
    const map = svg("svg", { class: "map", role: "application", tabindex: 0, "data-own-keys": true, "aria-label": t("vectors.map", { count: run.words.length }) });
    const says = el("p", { class: "finding", "aria-live": "polite" });
    const list = el("ol", { class: "neighbours" });
    const search = el("input", { type: "search", list: "vectors-words", class: "word-search", "aria-label": t("vectors.search"), placeholder: t("vectors.search") });
    const options = el("datalist", { id: "vectors-words" }, run.words.map((word) => el("option", { value: visible(word) })));
    const button = (key, sign, press) => el("button", { type: "button", "aria-label": t(key), title: t(key), onclick: press }, sign);
    const frame = el("div", { class: "map-frame" }, map, el("div", { class: "map-buttons" },
      button("vectors.closer", "+", () => zoom(0.7)), button("vectors.wider", "−", () => zoom(1 / 0.7)), button("vectors.all", "⤢", () => see(whole(run)))));
    const side = el("div", { class: "map-side" }, search, options, el("h3", {}), list);
    const notes = [t(run.plane ? "vectors.plane" : "vectors.pca", { size: run.size, share: percent(run.share, 0) })];
    if (run.words.length < run.vocabulary) notes.push(t("vectors.part", { frequent: run.frequent, vocabulary: run.vocabulary }));
    section.append(says, tools.figure({
      title: t("vectors.chart", { run: run.name }), body: el("div", { class: "map-row" }, frame, side), note: notes.join(" "),
      table: () => ({
        headers: [t("vectors.word"), "x", "y", t("vectors.place"), t("vectors.neighbour"), t("vectors.cosine")],
        rows: run.words.flatMap((word, i) => run.near[i].map((near, j) => [word, run.points[i][0], run.points[i][1], j + 1, run.named(near.id), near.cosine])),
      }),
    }));
    for (const why of data.without) section.append(el("p", { class: "note" }, tools.said(why)));

    let size = { w: 600, h: 420 }, word = start, over = null, queued = false;
    const X = (x) => size.w / 2 + ((x - kept.box.x) / kept.box.half) * (Math.min(size.w, size.h) / 2);
    const Y = (y) => size.h / 2 - ((y - kept.box.y) / kept.box.half) * (Math.min(size.w, size.h) / 2);

    function draw() {
      queued = false;
      const rect = frame.getBoundingClientRect();
      size = { w: Math.max(200, Math.floor(rect.width) || 600), h: Math.max(300, Math.min(520, Math.floor(rect.width * 0.72))) };
      map.setAttribute("viewBox", `0 0 ${size.w} ${size.h}`);
      map.setAttribute("width", size.w);
      map.setAttribute("height", size.h);
      const shown = over ?? word, near = run.near[shown];
      const group = svg("g", {}), onMap = new Map(near.filter((n) => n.id < run.words.length).map((n) => [n.id, n.cosine]));
      if (run.plane) group.append(...axes());
      for (const [id, cosine] of onMap) {
        const [a, b] = [run.points[shown], run.points[id]];
        group.append(svg("line", { class: "near-line", x1: X(a[0]), y1: Y(a[1]), x2: X(b[0]), y2: Y(b[1]), "stroke-width": (0.6 + 2.4 * Math.max(0, cosine)).toFixed(2) }));
      }
      const order = run.words.map((_, i) => i);
      const rank = (i) => (i === shown ? 0 : onMap.has(i) ? 1 : run.in_text[i] ? 2 : 3);
      order.sort((a, b) => rank(a) - rank(b) || a - b);
      // The buttons cover a corner of the map.
      const corner = frame.querySelector(".map-buttons").getBoundingClientRect();
      const boxes = [{ x: corner.left - rect.left, y: corner.bottom - rect.top, w: corner.width, h: corner.height }], labels = [];
      for (const i of order) {
        const x = X(run.points[i][0]), y = Y(run.points[i][1]);
        if (x < -5 || y < -5 || x > size.w + 5 || y > size.h + 5) continue;
        const kind = ["chosen", "near", "of-text", ""][rank(i)];
        group.append(svg("circle", { class: `word ${kind}`, cx: x.toFixed(1), cy: y.toFixed(1), r: i === shown ? 6 : rank(i) === 1 ? 4.5 : rank(i) === 2 ? 3.6 : 2.4, "data-word": run.words[i], "data-x": run.points[i][0], "data-y": run.points[i][1] }));
        if (labels.length > 220) continue;
        const text = visible(run.words[i]), big = rank(i) < 2, wide = textWidth(text, big ? 14 : 12, big ? 600 : 400) + 6, tall = big ? 20 : 17;
        const spots = [[x + 7, y + 4], [x - wide - 5, y + 4], [x - wide / 2, y - 7], [x - wide / 2, y + 17]];
        const spot = spots.find(([left, base]) => left > 1 && left + wide < size.w - 1 && base - tall > 0 && base < size.h - 3
          && !boxes.some((b) => left < b.x + b.w && b.x < left + wide && base - tall < b.y && b.y - b.h < base));
        if (!spot) continue;
        boxes.push({ x: spot[0], y: spot[1], w: wide, h: tall });
        labels.push(svg("text", { class: `word-name ${kind}`, x: spot[0].toFixed(1), y: spot[1].toFixed(1) }, text));
      }
      group.append(...labels);
      map.replaceChildren(group);
    }

    function axes() {
      return [
        svg("line", { class: "zero", x1: X(0), x2: X(0), y1: 0, y2: size.h }),
        svg("line", { class: "zero", x1: 0, x2: size.w, y1: Y(0), y2: Y(0) }),
        svg("text", { class: "axis-name", x: size.w - 6, y: Y(0) - 5, "text-anchor": "end" }, t("vectors.first")),
        svg("text", { class: "axis-name", x: X(0) + 5, y: 12 }, t("vectors.second")),
      ];
    }

    function later() {
      if (!queued) {
        queued = true;
        requestAnimationFrame(draw);
      }
    }

    function tell() {
      const shown = over ?? word, near = run.near[shown];
      side.querySelector("h3").textContent = t("vectors.nearest", { word: visible(run.words[shown]) });
      list.replaceChildren(...near.map((n) => {
        const name = run.named(n.id), known = n.id < run.words.length;
        const bar = el("span", { class: "cosine-bar", style: { width: `${Math.max(0, 100 * n.cosine).toFixed(1)}%` } });
        const title = known ? el("button", { type: "button", onclick: () => pick(n.id) }, visible(name)) : el("span", { class: "off-map", title: t("vectors.off_map") }, visible(name));
        return el("li", { "data-word": name, "data-cosine": n.cosine }, title, el("span", { class: "cosine-track" }, bar), el("span", { class: "cosine" }, n.cosine.toFixed(2).replace("-", "−")));
      }));
      const best = near.slice(0, 3).map((n) => `${visible(run.named(n.id))} (${n.cosine.toFixed(2).replace("-", "−")})`).join(t("vectors.comma"));
      says.textContent = near.length ? t("vectors.says", { word: visible(run.words[shown]), neighbours: best }) : "";
    }

    function pick(i, follow = true) {
      word = i;
      over = null;
      kept.word = run.words[i];
      if (follow) {
        const [x, y] = [X(run.points[i][0]), Y(run.points[i][1])];
        if (x < 10 || y < 10 || x > size.w - 10 || y > size.h - 10) Object.assign(kept.box, { x: run.points[i][0], y: run.points[i][1] });
      }
      tell();
      later();
    }

    function see(box) {
      kept.box = box;
      later();
    }

    function zoom(factor, at) {
      const box = kept.box, centre = at || { x: box.x, y: box.y };
      const half = box.half * factor;
      see({ x: centre.x + (box.x - centre.x) * factor, y: centre.y + (box.y - centre.y) * factor, half });
    }

    const scale = () => kept.box.half / (Math.min(size.w, size.h) / 2);
    const spot = (event) => {
      const rect = map.getBoundingClientRect();
      return [event.clientX - rect.left, event.clientY - rect.top];
    };
    const world = ([px, py]) => ({ x: kept.box.x + (px - size.w / 2) * scale(), y: kept.box.y - (py - size.h / 2) * scale() });
    function nearest([px, py]) {
      let best = null, least = 22 * 22;
      run.points.forEach((p, i) => {
        const d = (X(p[0]) - px) ** 2 + (Y(p[1]) - py) ** 2;
        if (d < least) [best, least] = [i, d];
      });
      return best;
    }

    const fingers = new Map();
    let moved = 0;
    map.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, spot(event));
      map.setPointerCapture(event.pointerId);
      moved = 0;
    });
    map.addEventListener("pointermove", (event) => {
      const now = spot(event), before = fingers.get(event.pointerId);
      if (!before) {
        const found = nearest(now);
        if (found !== over && event.pointerType === "mouse") {
          over = found;
          tell();
          later();
        }
        return;
      }
      if (fingers.size === 2) {
        const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
        const span = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
        zoom(span(before, other) / span(now, other), world([(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]));
        moved = 99;
      } else {
        moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
        if (moved > 4) see({ ...kept.box, x: kept.box.x - (now[0] - before[0]) * scale(), y: kept.box.y + (now[1] - before[1]) * scale() });
      }
      fingers.set(event.pointerId, now);
    });
    const lift = (event) => {
      if (fingers.delete(event.pointerId) && moved <= 4 && event.type === "pointerup") {
        const found = nearest(spot(event));
        if (found !== null) pick(found);
      }
    };
    map.addEventListener("pointerup", lift);
    map.addEventListener("pointercancel", lift);
    map.addEventListener("pointerleave", () => {
      if (over !== null) {
        over = null;
        tell();
        later();
      }
    });
    map.addEventListener("wheel", (event) => {
      // A wheel over a map that nobody chose scrolls the page.
      if (!event.ctrlKey && document.activeElement !== map) return;
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.18 : 1 / 1.18, world(spot(event)));
    }, { passive: false });
    map.addEventListener("keydown", (event) => {
      const step = kept.box.half * 0.15;
      const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[event.key];
      if (move) see({ ...kept.box, x: kept.box.x + move[0], y: kept.box.y + move[1] });
      else if (event.key === "+" || event.key === "=") zoom(0.7);
      else if (event.key === "-") zoom(1 / 0.7);
      else if (event.key === "0") see(whole(run));
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    search.addEventListener("input", () => {
      const wanted = search.value.trim();
      let found = run.words.findIndex((w) => visible(w) === wanted);
      if (found < 0) found = run.words.findIndex((w) => visible(w).toLowerCase() === wanted.toLowerCase());
      if (found >= 0) pick(found);
    });

    tell();
    draw();
    if (typeof ResizeObserver !== "undefined") {
      new ResizeObserver(() => {
        if (Math.abs(Math.floor(frame.getBoundingClientRect().width) - size.w) > 1) later();
      }).observe(frame);
    }
    live = { run, pick };
  }

  /** The token that is selected in the text is selected on the map too. */
  function update(state, changed) {
    if (!live || !["character", "token", "run"].some((name) => changed.has(name))) return;
    const name = jaxlm.tools.tokenText(live.run.index, placeOf(jaxlm.tools, live.run.index));
    if (live.run.place.has(name)) live.pick(live.run.place.get(name));
  }

  jaxlm.view("vectors", { render: inPlace(showIn), update });
})();
