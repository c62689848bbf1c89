"use strict";
// The senses of a word: its one vector in the embedding beside its vectors in context, a dot for
// each occurrence, labelled by its sentence.
(() => {
  const { el, svg, colour } = jaxlm.tools;
  const { number, percent, marker, inPlace } = jaxlm.charts;
  const kept = { run: 0, word: 0, chosen: null };
  const SIZE = { w: 460, h: 300 };

  function showIn(section, data, tools) {
    const { t } = tools;
    kept.run = Math.min(kept.run, data.runs.length - 1);
    const run = data.runs[kept.run];
    kept.word = Math.min(kept.word, run.words.length - 1);
    const one = run.words[kept.word], uses = one.occurrences, count = uses.length;
    const similar = tools.array(one.similarities), xy = tools.array(one.xy);
    if (kept.chosen !== null && kept.chosen >= count) kept.chosen = null;
    const again = (focus) => {
      section.replaceChildren();
      showIn(section, data, tools);
      section.querySelector(focus)?.focus({ preventScroll: true });
    };
    if (data.runs.length > 1) {
      section.append(el("p", { class: "by-run" }, tools.choice(t("senses.choose_run"), data.runs.map((r, i) => ({ value: i, text: r.name })), kept.run, (value) => {
        Object.assign(kept, { run: value, word: 0, chosen: null });
        again(`.by-run [data-value="${value}"]`);
      })));
    }
    if (run.words.length > 1) {
      section.append(el("p", { class: "by-word" }, tools.choice(t("senses.choose_word"), run.words.map((w, i) => ({ value: i, text: w.word })), kept.word, (value) => {
        Object.assign(kept, { word: value, chosen: null });
        again(`.by-word [data-value="${value}"]`);
      })));
    }
    section.append(el("p", { class: "finding" }, says(one, similar, t)));
    const pick = (i) => {
      kept.chosen = kept.chosen === i ? null : i;
      again(`.occurrence[data-index="${i}"]`);
    };
    const list = el("ol", { class: "occurrences" }, uses.map((use, i) => {
      const cosine = kept.chosen === null ? null : similar[kept.chosen * count + i], chosen = kept.chosen === i;
      return el("li", {}, el("button", { type: "button", class: chosen ? "occurrence chosen" : "occurrence", "aria-pressed": String(chosen), "data-index": i, "data-group": use.group, "data-similarity": cosine, onclick: () => pick(i) },
        svg("svg", { width: 16, height: 16, "aria-hidden": "true" }, svg("path", { fill: colour.series(use.group), d: marker(use.group, 8, 8, 5.5) })),
        el("span", { class: "rank" }, String(i + 1)), el("span", { class: "sentence", dir: "auto" }, use.before, el("mark", {}, use.word), use.after),
        use.label ? el("span", { class: "tag" }, t(`senses.label_${use.label}`)) : null, cosine === null ? null : el("span", { class: "cosine" }, number(cosine, 2))));
    }));
    section.append(tools.figure({
      title: t("senses.chart", { word: one.word }),
      body: el("div", {},
        el("div", { class: "senses-row" },
          el("div", {}, el("h3", {}, t("senses.static")), table(one, count, t)),
          el("div", {}, el("h3", {}, t("senses.contextual", { count })), cloud(one, xy, pick, t))),
        el("p", { class: "note" }, t(kept.chosen === null ? "senses.how" : "senses.similar_to", { number: (kept.chosen ?? 0) + 1 })), list),
      note: `${t(one.labelled ? "senses.labelled" : "senses.grouped")} ${t("senses.protocol", { static_size: one.static_size, size: one.size, share: percent(one.share, 0) })}`,
      table: () => ({
        headers: [...["number", "sentence", "label"].map((key) => t(`senses.${key}`)), "x", "y", ...uses.map((_, j) => t("senses.similarity", { number: j + 1 }))],
        rows: uses.map((use, i) => [i + 1, use.before + use.word + use.after, use.label || null, xy[2 * i], xy[2 * i + 1], ...uses.map((_, j) => similar[i * count + j])]),
      }),
    }));
    for (const why of data.without) section.append(el("p", { class: "note" }, tools.said(why)));
  }

  /** Return the sentence of the view: how alike the uses are within and between senses. */
  function says(one, similar, t) {
    const count = one.occurrences.length, sums = { within: [0, 0], between: [0, 0] };
    let least = [2, 0, 0];
    for (let i = 0; i < count; i++) {
      for (let j = i + 1; j < count; j++) {
        const cosine = similar[i * count + j], sum = sums[one.occurrences[i].group === one.occurrences[j].group ? "within" : "between"];
        sum[0] += cosine;
        sum[1]++;
        if (cosine < least[0]) least = [cosine, i, j];
      }
    }
    if (one.labelled && sums.within[1] && sums.between[1]) {
      return t("senses.says_labelled", { word: one.word, count, within: number(sums.within[0] / sums.within[1], 2), between: number(sums.between[0] / sums.between[1], 2) });
    }
    return t("senses.says", { word: one.word, count, least: number(least[0], 2), a: least[1] + 1, b: least[2] + 1 });
  }

  /** Draw the row of the embedding: all occurrences read one vector. */
  function table(one, count, t) {
    const root = svg("svg", { class: "senses", viewBox: `0 0 ${SIZE.w} ${SIZE.h}`, role: "img", "aria-label": t("senses.static_title", { word: one.word, count }) });
    const x = SIZE.w * 0.5, y = SIZE.h / 2, shown = Math.min(count, 13);
    for (let i = 0; i < shown; i++) {
      const from = (SIZE.h * (i + 1)) / (shown + 1), last = i + 1 === shown && count > shown;
      root.append(svg("path", { class: "fan", d: `M56,${from}C${x * 0.65},${from} ${x * 0.65},${y} ${x - 18},${y}` }), svg("text", { x: 48, y: from + 4, class: "end" }, last ? `… ${count}` : String(i + 1)));
    }
    const numbers = Array.from(one.static, (v) => number(v, 2)).join(", ");
    root.append(svg("path", { class: "static-mark", d: marker(3, x, y, 13) }), svg("text", { class: "static-name", x: x + 24, y: y + 2 }, one.word), svg("text", { x: x + 24, y: y + 22, "data-static": Array.from(one.static).join(" ") }, `(${numbers}${one.static.length < one.static_size ? ", …" : ""})`));
    return root;
  }

  function cloud(one, xy, pick, t) {
    const count = one.occurrences.length, root = svg("svg", { class: "senses", viewBox: `0 0 ${SIZE.w} ${SIZE.h}`, role: "group", "aria-label": t("senses.contextual_title", { word: one.word, count }) });
    const xs = one.occurrences.map((_, i) => xy[2 * i]), ys = one.occurrences.map((_, i) => xy[2 * i + 1]);
    const mid = (values) => (Math.min(...values) + Math.max(...values)) / 2;
    const half = Math.max(...xs.map((v) => Math.abs(v - mid(xs)) / (SIZE.w / 2 - 34)), ...ys.map((v) => Math.abs(v - mid(ys)) / (SIZE.h / 2 - 26)), 1e-9);
    root.append(svg("rect", { class: "frame", x: 0.5, y: 0.5, width: SIZE.w - 1, height: SIZE.h - 1, rx: 6 }));
    one.occurrences.forEach((use, i) => {
      const x = SIZE.w / 2 + (xs[i] - mid(xs)) / half, y = SIZE.h / 2 - (ys[i] - mid(ys)) / half, chosen = kept.chosen === i;
      root.append(svg("g", { class: chosen ? "use chosen" : "use", onclick: () => pick(i) },
        svg("title", {}, use.before + use.word + use.after),
        svg("path", { fill: colour.series(use.group), d: marker(use.group, x, y, chosen ? 9 : 6.5), "data-index": i, "data-x": xs[i], "data-y": ys[i] }),
        svg("text", { x: x + 9, y: y - 6 }, String(i + 1))));
    });
    return root;
  }

  jaxlm.view("senses", { render: inPlace(showIn) });
})();
