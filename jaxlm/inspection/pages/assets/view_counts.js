"use strict";
// The table of the lecture: context, next word, how often; the zero that breaks plain counts, and
// the probability that smoothing puts in its place.
(() => {
  const { el, brief } = jaxlm.tools;
  const { number, percent, inPlace, placeOf, nameOf, choose, stepper } = jaxlm.charts;
  const kept = { run: 0 };
  let live = null;

  function unpacked(run, tools) {
    const arrays = {};
    for (const [name, array] of Object.entries(run.arrays)) arrays[name] = tools.array(array);
    return { ...run, ...arrays };
  }

  /** Return the context at a place and what follows it, or null if too few words stand before. */
  function tableAt(run, place) {
    const context = run.context_of[place], actual = run.ids[place];
    if (context < 0) return null;
    const rows = [];
    for (let k = 0; k < run.shown; k++) {
      const cell = context * run.shown + k, id = run.next[cell];
      if (id >= 0) rows.push({ word: run.words[id], times: run.times[cell], smoothed: run.smoothed[cell], actual: id === actual });
    }
    if (!rows.some((row) => row.actual)) rows.push({ word: run.words[actual], times: run.actual_times[place], smoothed: run.actual_smoothed[place], actual: true });
    const words = Array.from({ length: run.length }, (_, j) => run.words[run.contexts[context * run.length + j]]);
    return { words, rows, total: run.total[context], kinds: run.kinds[context], never: run.vocabulary - run.kinds[context], unseen: run.unseen[context] };
  }

  function showIn(section, data, tools) {
    const { t } = tools;
    kept.run = Math.min(kept.run, data.runs.length - 1);
    const run = unpacked(data.runs[kept.run], tools), zeros = run.zeros;
    if (data.runs.length > 1) {
      section.append(tools.choice(t("counts.choose"), data.runs.map((one, i) => ({ value: i, text: one.name })), kept.run, (value) => {
        kept.run = value;
        section.replaceChildren();
        showIn(section, data, tools);
        section.querySelector(`.choice [data-value="${value}"]`)?.focus();
      }));
    }
    const blank = tools.runs[run.index].unit === "words" ? " " : "";
    section.append(el("p", { class: "finding", "data-zeros": zeros.length, "data-counted": run.counted }, t(!run.counted ? "counts.says_short" : zeros.length ? "counts.says_zeros" : "counts.says_none", { zeros: zeros.length, counted: run.counted, n: run.length + 1, length: run.length, share: percent(zeros.length / run.counted, 0) })));
    const move = el("div", {}), says = el("p", { class: "counted", "aria-live": "polite" }), body = el("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": t("counts.chart") }), more = el("p", { class: "note" });
    let found = null, context = "";
    section.append(move, says, tools.figure({
      title: t("counts.chart"), body: el("div", {}, body, more),
      note: t("counts.protocol", { run: run.name, smoothing: run.smoothing, length: run.length }),
      table: () => ({
        headers: ["context", "next", "times", "plain", "smoothed"].map((key) => t(`counts.${key}`)),
        rows: found ? [
          ...found.rows.map((row) => [context, row.word, row.times, found.total > 0 ? row.times / found.total : null, row.smoothed]),
          [context, t("counts.never_all", { never: found.never }), 0, found.total > 0 ? 0 : null, found.unseen],
        ] : [],
      }),
    }));
    for (const why of data.without) section.append(el("p", { class: "note" }, tools.said(why)));

    function show() {
      // A token at the start of a line has no context: the next token that has one is shown.
      const selected = placeOf(tools, run.index), after = run.context_of.findIndex((c, i) => i >= selected && c >= 0);
      const place = after < 0 ? selected : after;
      const next = zeros.find((zero) => zero > place) ?? zeros[0];
      const focused = move.contains(document.activeElement) ? document.activeElement.className : null;
      move.replaceChildren(stepper(tools, run.index, place, zeros.length ? el("button", { type: "button", class: "next-zero", onclick: () => choose(tools, run.index, next) }, t("counts.next_zero")) : null));
      if (focused) move.querySelector(`.${focused}:not(:disabled)`)?.focus();
      found = tableAt(run, place);
      more.textContent = "";
      if (!found) {
        says.textContent = t("counts.too_early", { length: run.length });
        body.replaceChildren();
        return;
      }
      context = found.words.map(brief).join(blank);
      const actual = found.rows.find((row) => row.actual), zero = actual.times === 0;
      const words = { word: nameOf(tools, run.index, place), context, total: found.total.toLocaleString("en"), times: actual.times.toLocaleString("en"), plain: percent(actual.times / found.total, 1), smoothed: share(actual.smoothed) };
      says.textContent = t(found.total === 0 ? "counts.no_context" : zero ? "counts.zero" : "counts.seen", words);
      Object.assign(says.dataset, { times: actual.times, total: found.total, smoothed: actual.smoothed });
      body.replaceChildren(drawn(found, context, t));
      const rest = found.kinds - found.rows.filter((row) => row.times > 0).length;
      if (rest > 0) more.textContent = t("counts.more", { rest: rest.toLocaleString("en"), kinds: found.kinds.toLocaleString("en"), total: words.total });
    }

    show();
    live = { show };
  }

  const share = (p) => (p < 1e-4 ? number(p, 2) : percent(p, 2));

  function drawn(found, context, t) {
    const largest = Math.max(1, ...found.rows.map((row) => row.times));
    const rows = found.rows.map((row) => el("tr", { class: [row.actual ? "actual" : "", row.times === 0 ? "zero" : ""].join(" "), "data-word": row.word, "data-times": row.times, "data-smoothed": row.smoothed },
      el("td", { class: "extra", dir: "auto" }, context), el("td", { class: "next", dir: "auto" }, brief(row.word), row.actual ? el("span", { class: "tag" }, t("counts.actual")) : null),
      el("td", { class: "times" }, el("span", { class: "count-bar", style: { width: `${(64 * row.times) / largest}px` } }), el("b", {}, row.times.toLocaleString("en"))),
      el("td", { class: "number" }, found.total > 0 ? percent(row.times / found.total, 2) : "0 / 0"),
      el("td", { class: "number" }, share(row.smoothed))));
    rows.push(el("tr", { class: "zero never", "data-never": found.never, "data-unseen": found.unseen },
      el("td", { class: "extra", dir: "auto" }, context), el("td", { class: "next" }, t("counts.never", { never: found.never.toLocaleString("en") })), el("td", { class: "times" }, el("b", {}, "0")),
      el("td", { class: "number" }, found.total > 0 ? "0%" : "0 / 0"), el("td", { class: "number" }, t("counts.together", { share: share(found.unseen) }))));
    return el("table", { class: "counts-table" }, el("thead", {}, el("tr", {}, ["context", "next", "times", "plain", "smoothed"].map((key, i) => el("th", { scope: "col", class: ["extra", "next", null, "number", "number"][i] }, t(`counts.${key}`))))), el("tbody", {}, rows));
  }

  function update(state, changed) {
    if (live && ["character", "token", "run"].some((name) => changed.has(name))) live.show();
  }

  jaxlm.view("counts", { render: inPlace(showIn), update });
})();
