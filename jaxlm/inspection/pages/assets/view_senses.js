"use strict";
// The senses of a word: its one vector in the embedding beside its vectors in context, a dot for
// each occurrence, labelled by its sentence.
(() => {
  const { el, svg, colour } = jaxlm.tools;
  const { number, choice, marker, inPlace } = jaxlm.charts;
  const kept = { run: 0, word: 0, chosen: null };
  const SIZE = { w: 460, h: 330 };

  function showIn(section, data, tools) {
    const { t } = tools;
    kept.run = Math.min(kept.run, data.runs.length - 1);
    const run = data.runs[kept.run];
    kept.word = Math.min(kept.word, run.words.length - 1);
    const one = run.words[kept.word], count = one.occurrences.length;
    const similar = tools.array(one.similarities), xy = tools.array(one.xy);
    if (kept.chosen !== null && kept.chosen >= count) kept.chosen = null;
    const again = (focus) => {
      section.replaceChildren();
      showIn(section, data, tools);
      if (focus) section.querySelector(focus)?.focus();
    };
    if (data.runs.length > 1) {
      section.append(tools.choice(t("senses.choose_run"), data.runs.map((r, i) => ({ value: i, text: r.name })), kept.run, (value) => {
        Object.assign(kept, { run: value, word: 0, chosen: null });
        again(`.choice [data-value="${value}"]`);
      }));
    }
    if (run.words.length > 1) {
      section.append(tools.choice(t("senses.choose_word"), run.words.map((w, i) => ({ value: i, text: w.word })), kept.word, (value) => {
        Object.assign(kept, { word: value, chosen: null });
        again(`.choice + .choice [data-value="${value}"], .choice [data-value="${value}"]`);
      }));
    }
    const [least, a, b] = apart(similar, count);
    section.append(el("p", { class: "finding" }, t("senses.says", { word: one.word, count, least: number(least), a: a + 1, b: b + 1 })));
    const pick = (i) => {
      kept.chosen = kept.chosen === i ? null : i;
      again(`.occurrence[data-index="${i}"]`);
    };
    section.append(el("div", { class: "senses-row" },
      el("figure", {}, table(one, count, t), el("figcaption", {}, t("senses.static", { size: one.static.length }))),
      el("figure", {}, cloud(one, xy, pick, t), el("figcaption", {}, t("senses.contextual", { size: one.size, share: `${Math.round(100 * one.share)}%` })))));
    const list = el("ol", { class: "occurrences" });
    one.occurrences.forEach((use, i) => {
      const near = kept.chosen === null || kept.chosen === i ? "" : number(similar[kept.chosen * count + i], 2);
      list.append(el("li", {}, el("button", { type: "button", class: `occurrence ${kept.chosen === i ? "chosen" : ""}`, "aria-pressed": kept.chosen === i ? "true" : "false", "data-index": i, "data-group": use.group, "data-similarity": kept.chosen === null ? "" : similar[kept.chosen * count + i], onclick: () => pick(i) },
        svg("svg", { width: 16, height: 16, "aria-hidden": "true" }, svg("path", { class: "dot", fill: colour.series(use.group), d: marker(use.group, 8, 8, 5) })),
        el("span", { class: "number" }, `${i + 1}`), el("span", { class: "sentence" }, use.before, el("mark", {}, use.word), use.after),
        use.label ? el("span", { class: "tag" }, use.label) : null, near ? el("span", { class: "cosine" }, near) : null)));
    });
    section.append(el("p", { class: "note" }, t(kept.chosen === null ? "senses.how" : "senses.similar_to", { number: (kept.chosen ?? 0) + 1 })), list);
    section.append(el("p", { class: "note" }, t(one.labelled ? "senses.labelled" : "senses.grouped")));
    for (const other of data.without) section.append(el("p", { class: "note" }, tools.said(other)));
    const rows = one.occurrences.map((use, i) => [i + 1, use.before + use.word + use.after, use.label || "", xy[2 * i], xy[2 * i + 1], ...Array.from({ length: count }, (_, j) => similar[i * count + j])]);
    section.append(tools.table([t("senses.number"), t("senses.sentence"), t("senses.label"), "x", "y", ...one.occurrences.map((_, j) => t("senses.similarity", { number: j + 1 }))], rows));
  }

  /** Return the least similarity of two occurrences, and their indices. */
  function apart(similar, count) {
    let best = [1, 0, Math.min(1, count - 1)];
    for (let i = 0; i < count; i++) {
      for (let j = i + 1; j < count; j++) if (similar[i * count + j] < best[0]) best = [similar[i * count + j], i, j];
    }
    return best;
  }

  /** Draw the row of the embedding: all occurrences point to one mark. */
  function table(one, count, t) {
    const root = svg("svg", { class: "senses", viewBox: `0 0 ${SIZE.w} ${SIZE.h}`, role: "img", "aria-label": t("senses.static_title", { word: one.word, count }) });
    const x = SIZE.w * 0.62, y = SIZE.h / 2, shown = Math.min(count, 14);
    for (let i = 0; i < shown; i++) {
      const from = SIZE.h * ((i + 1) / (shown + 1));
      root.append(svg("path", { class: "fan", d: `M64,${from}C${x * 0.6},${from} ${x * 0.6},${y} ${x - 16},${y}` }), svg("text", { x: 50, y: from + 4, "text-anchor": "end" }, i + 1 < shown || count === shown ? `${i + 1}` : `… ${count}`));
    }
    root.append(svg("path", { class: "static-mark", d: marker(3, x, y, 13) }), svg("text", { class: "static-name", x: x + 24, y: y + 6 }, one.word));
    return root;
  }

  function cloud(one, xy, pick, t) {
    const count = one.occurrences.length, root = svg("svg", { class: "senses", viewBox: `0 0 ${SIZE.w} ${SIZE.h}`, role: "group", "aria-label": t("senses.contextual_title", { word: one.word, count }) });
    const xs = [], ys = [];
    for (let i = 0; i < count; i++) {
      xs.push(xy[2 * i]);
      ys.push(xy[2 * i + 1]);
    }
    const mid = (values) => (Math.min(...values) + Math.max(...values)) / 2;
    const half = Math.max(...xs.map((v) => Math.abs(v - mid(xs)) / (SIZE.w / 2 - 34)), ...ys.map((v) => Math.abs(v - mid(ys)) / (SIZE.h / 2 - 28)), 1e-9);
    root.append(svg("rect", { class: "frame", x: 0.5, y: 0.5, width: SIZE.w - 1, height: SIZE.h - 1, rx: 6 }));
    const spots = xs.map((v, i) => ({ x: SIZE.w / 2 + (v - mid(xs)) / half, y: SIZE.h / 2 - (ys[i] - mid(ys)) / half, i }));
    for (const { x, y, i } of spots) {
      const group = one.occurrences[i].group, chosen = kept.chosen === i;
      root.append(svg("g", { class: `use ${chosen ? "chosen" : ""}`, onclick: () => pick(i) },
        svg("title", {}, one.occurrences[i].before + one.occurrences[i].word + one.occurrences[i].after),
        svg("path", { class: "dot", fill: colour.series(group), d: marker(group, x, y, chosen ? 9 : 6.5), "data-index": i, "data-x": xy[2 * i], "data-y": xy[2 * i + 1] }),
        svg("text", { x: x + 9, y: y - 6 }, `${i + 1}`)));
    }
    return root;
  }

  jaxlm.view("senses", { render: inPlace(showIn) });
})();
