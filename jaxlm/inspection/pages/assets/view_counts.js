"use strict";
// The table of the lecture: context, next word, how often; the zero that breaks plain counts, and
// the probability that smoothing puts in its place.
(() => {
  const { el, visible } = jaxlm.tools;
  const { percent, inPlace } = jaxlm.charts;
  const kept = { run: 0, at: null };
  let live = null;

  function unpacked(run, tools) {
    const arrays = {};
    for (const [name, packed] of Object.entries(run.arrays)) arrays[name] = tools.array(packed);
    return { ...run, ...arrays };
  }

  function rowsAt(run, at) {
    const context = run.context_of[at], rows = [];
    if (context < 0) return null;
    for (let k = 0; k < run.shown; k++) {
      const id = run.next[context * run.shown + k];
      if (id >= 0) rows.push({ word: run.words[id], id, times: run.times[context * run.shown + k], smoothed: run.smoothed[context * run.shown + k], actual: id === run.ids[at] });
    }
    if (!rows.some((row) => row.actual)) rows.push({ word: run.tokens[at], id: run.ids[at], times: run.actual_times[at], smoothed: run.actual_smoothed[at], actual: true, cut: run.actual_times[at] > 0 });
    return { total: run.total[context], kinds: run.kinds[context], rows, words: Array.from({ length: run.length }, (_, j) => run.words[run.contexts[context * run.length + j]]) };
  }

  function showIn(section, data, tools) {
    const { t } = tools;
    kept.run = Math.min(kept.run, data.runs.length - 1);
    const run = unpacked(data.runs[kept.run], tools);
    if (data.runs.length > 1) {
      section.append(tools.choice(t("counts.choose"), data.runs.map((one, i) => ({ value: i, text: one.name })), kept.run, (value) => {
        Object.assign(kept, { run: value, at: null });
        section.replaceChildren();
        showIn(section, data, tools);
        section.querySelector(`.choice [data-value="${value}"]`)?.focus();
      }));
    }
    const zeros = run.zeros, body = el("div", {});
    const summary = el("p", { class: "finding", "data-zeros": zeros.length, "data-positions": run.counted }, t(zeros.length ? "counts.says_zeros" : "counts.says_none", { zeros: zeros.length, positions: run.counted, n: run.length + 1 }));
    section.append(summary);
    const move = el("div", { class: "step-word" });
    section.append(move, body);
    if (kept.at === null) kept.at = zeros.length ? zeros[0] : placeOf(run, tools) ?? run.first;

    function show(at) {
      kept.at = Math.max(0, Math.min(run.tokens.length - 1, at));
      const gap = run.blank, word = visible(run.tokens[kept.at]);
      const before = run.tokens.slice(Math.max(0, kept.at - 6), kept.at).map(visible);
      const next = zeros.find((z) => z > kept.at) ?? zeros[0];
      move.replaceChildren(
        el("button", { type: "button", "aria-label": t("counts.back"), disabled: kept.at === 0, onclick: () => show(kept.at - 1) }, "‹"),
        el("span", { class: "in-text" }, before.join(gap) + gap, el("b", {}, word)),
        el("button", { type: "button", "aria-label": t("counts.on"), disabled: kept.at === run.tokens.length - 1, onclick: () => show(kept.at + 1) }, "›"),
        zeros.length ? el("button", { type: "button", class: "next-zero", onclick: () => show(next) }, t("counts.next_zero")) : null);
      body.replaceChildren(...parts(kept.at));
    }

    function parts(at) {
      const found = rowsAt(run, at);
      if (!found) return [el("p", { class: "note" }, t("counts.too_early", { length: run.length }))];
      const context = found.words.map(visible).join(run.blank);
      const largest = Math.max(1, ...found.rows.map((row) => row.times));
      const actual = found.rows.find((row) => row.actual);
      const zero = actual.times === 0;
      const words = { word: visible(actual.word), context, total: found.total.toLocaleString("en"), smoothed: percent(actual.smoothed, 3), times: actual.times.toLocaleString("en"), plain: percent(actual.times / found.total, 1) };
      const key = found.total === 0 ? "counts.no_context" : zero ? "counts.zero" : "counts.seen";
      const table = el("table", { class: "counts" }, el("thead", {}, el("tr", {}, ["counts.context", "counts.next", "counts.times", "counts.plain", "counts.smoothed"].map((k) => el("th", { scope: "col" }, t(k))))));
      const rows = el("tbody", {});
      found.rows.forEach((row) => {
        const plain = found.total > 0 ? row.times / found.total : null;
        rows.append(el("tr", { class: `${row.actual ? "actual" : ""} ${row.times === 0 ? "zero" : ""}`, "data-word": row.word, "data-times": row.times, "data-smoothed": row.smoothed },
          el("td", { class: "context" }, context), el("td", { class: "next" }, visible(row.word), row.actual ? el("span", { class: "tag" }, t("counts.actual")) : null),
          el("td", { class: "times" }, el("span", { class: "count-bar", style: { width: `${(72 * row.times) / largest}px` } }), el("b", {}, row.times.toLocaleString("en"))),
          el("td", {}, plain === null ? "0 / 0" : percent(plain, 2)), el("td", {}, percent(row.smoothed, 2))));
      });
      table.append(rows);
      const more = found.kinds - found.rows.filter((row) => row.times > 0).length;
      const parts = [el("p", { class: "caption", "aria-live": "polite" }, t(key, words)), el("div", { class: "scroll" }, table)];
      if (more > 0) parts.push(el("p", { class: "note" }, t("counts.more", { more: more.toLocaleString("en"), kinds: found.kinds.toLocaleString("en"), total: words.total })));
      parts.push(el("p", { class: "note" }, t("counts.protocol", { run: run.name, smoothing: run.smoothing, order: run.order })));
      parts.push(tools.table([t("counts.context"), t("counts.next"), t("counts.times"), t("counts.plain"), t("counts.smoothed")], found.rows.map((row) => [context, visible(row.word), row.times, found.total > 0 ? row.times / found.total : "", row.smoothed])));
      return parts;
    }

    show(kept.at);
    live = { show, place: () => placeOf(run, tools) };
  }

  function update(selection) {
    if (!live) return;
    const at = live.place();
    if (at !== null && at !== undefined && at !== kept.at) live.show(at);
  }

  jaxlm.view("counts", { render: inPlace(showIn), update });
})();
