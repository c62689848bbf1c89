"use strict";
// The ladder of an n-gram's answer at the selected token: for each order the context, the counts,
// the discount and the weight, and a bar that adds up to the answer.
(() => {
  const { el, svg, brief } = jaxlm.tools;
  const { number, percent, shortened, inPlace, placeOf, nameOf, stepper } = jaxlm.charts;
  const kept = { run: 0 };
  let live = null;

  function unpacked(run, tools) {
    const arrays = {};
    for (const [name, array] of Object.entries({ ...run.counts, ...run.numbers })) arrays[name] = tools.array(array);
    return { ...run, ...arrays, contexts: tools.array(run.context), longest: run.context.shape[1] };
  }

  /** Return the rungs at a place, longest order first. */
  function ladder(run, place, lineStart) {
    const rungs = [];
    run.orders.forEach((order, r) => {
      const cell = (name) => run[name][place * run.orders.length + r];
      const words = [];
      for (let back = order - 1; back >= 1; back--) {
        const id = run.contexts[place * run.longest + run.longest - back];
        words.push(id < 0 ? null : run.words[id]);
      }
      // An order that would reach back beyond the start of a line or of the text has no rung.
      if (Number.isNaN(cell("probability"))) return;
      const starred = run.continuation && order > 0 && order < run.order && !(order > 1 && words[0] === lineStart);
      rungs.push({ order, words, starred, context: cell("context"), pair: cell("pair"), discount: cell("discount"), probability: cell("probability"), weight: cell("weight"), contribution: cell("contribution") });
    });
    return rungs;
  }

  function showIn(section, data, tools) {
    const { t } = tools;
    kept.run = Math.min(kept.run, data.runs.length - 1);
    const run = unpacked(data.runs[kept.run], tools);
    if (data.runs.length > 1) {
      section.append(tools.choice(t("backoff.choose"), data.runs.map((one, i) => ({ value: i, text: one.name })), kept.run, (value) => {
        kept.run = value;
        section.replaceChildren();
        showIn(section, data, tools);
        section.querySelector(`.choice [data-value="${value}"]`)?.focus();
      }));
    }
    const move = el("div", {}), says = el("p", { class: "finding", "aria-live": "polite" }), body = el("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": t("backoff.chart") });
    let rungs = [], place = 0, word = "";
    section.append(move, says, tools.figure({
      title: t("backoff.chart"), body,
      note: [t("backoff.how", { smoothing: run.smoothing }), run.continuation ? t("backoff.star") : "", run.known ? "" : t("backoff.unknown", { why: run.note })].filter(Boolean).join(" "),
      table: () => ({
        headers: ["word", "order", "context", "context_count", "pair_count", "discount", "probability", "weight", "adds"].map((key) => t(`backoff.${key}`)),
        rows: rungs.map((rung) => [word, rung.order, rung.words.join(" "), known(rung.context), known(rung.pair), known(rung.discount), rung.probability, rung.weight, rung.contribution]),
      }),
    }));
    for (const why of data.without) section.append(el("p", { class: "note" }, tools.said(why)));

    function show() {
      place = placeOf(tools, run.index);
      word = nameOf(tools, run.index, place);
      rungs = ladder(run, place, data.line_start);
      const focused = move.contains(document.activeElement) ? document.activeElement.className : null;
      move.replaceChildren(stepper(tools, run.index, place));
      if (focused) move.querySelector(`.${focused}:not(:disabled)`)?.focus();
      const answer = run.answers[place];
      says.textContent = sentence(run, rungs, word, answer, t);
      Object.assign(says.dataset, { answer, place });
      body.replaceChildren(drawn(rungs, run, word, answer, data.line_start, t));
    }

    show();
    live = { show };
  }

  function drawn(rungs, run, word, answer, lineStart, t) {
    const heads = ["order", "context", "context_count", "pair_count", "discount", "probability", "weight", "adds"];
    const rows = el("tbody", {});
    let from = 0;
    for (const rung of rungs) {
      const share = answer > 0 ? rung.contribution / answer : 0;
      const seen = rung.order === 0 ? "" : rung.pair > 0 ? "seen" : rung.pair === 0 ? "unseen" : "";
      rows.append(el("tr", { class: seen, "data-order": rung.order, "data-contribution": rung.contribution, "data-pair": rung.pair, "data-context": rung.context, "data-weight": rung.weight, "data-probability": rung.probability },
        el("th", { scope: "row" }, rung.order > 0 ? t("backoff.gram", { n: rung.order }) : t("backoff.uniform")),
        el("td", { class: "context", dir: "auto" }, contextOf(rung, lineStart, t), " ", el("b", {}, rung.order > 0 ? word : t("backoff.any"))),
        el("td", { class: "number extra" }, counted(rung.context, rung)), el("td", { class: "number pair" }, counted(rung.pair, rung)),
        el("td", { class: "number extra" }, rung.pair > 0 ? number(rung.discount) : ""),
        el("td", { class: "number extra" }, number(rung.probability)), el("td", { class: "number extra" }, number(rung.weight)),
        el("td", { class: "adds" }, bar(from, share, "part"), el("span", {}, number(rung.contribution)))));
      from += share;
    }
    rows.append(el("tr", { class: "sum" }, el("th", { scope: "row", colspan: 2 }, t("backoff.answer", { word })), ["extra", null, "extra", "extra", "extra"].map((name) => el("td", { class: name })), el("td", { class: "adds" }, bar(0, 1, "whole"), el("b", {}, number(answer, 4)))));
    return el("table", { class: "ladder" }, el("thead", {}, el("tr", {}, heads.map((key) => el("th", { scope: "col", class: /^(order|context|adds)$/.test(key) ? key : key === "pair_count" ? "number" : "number extra" }, t(`backoff.${key}`))))), rows);
  }

  const known = (n) => (Number.isNaN(n) || n < 0 ? null : n);
  const counted = (n, rung) => (rung.order === 0 ? "" : Number.isNaN(n) || n < 0 ? "?" : n.toLocaleString("en") + (rung.starred ? "*" : ""));

  function contextOf(rung, lineStart, t) {
    if (rung.order <= 1) return el("span", { class: "faint" }, t("backoff.no_context"));
    const text = rung.words.map((w) => (w === lineStart ? t("backoff.line_start") : brief(w))).join(" ");
    return el("span", { title: text }, shortened(text, 240, 14));
  }

  function bar(from, share, kind) {
    return svg("svg", { class: "share", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { class: "track", x: 0, y: 0, width: 100, height: 10 }),
      svg("rect", { class: kind, x: Math.min(99.2, 100 * from), y: 0, width: Math.max(share > 0 ? 0.8 : 0, 100 * share), height: 10 }));
  }

  function sentence(run, rungs, word, answer, t) {
    const top = rungs.find((rung) => rung.order > 1), real = rungs.filter((rung) => rung.order > 0);
    const seen = real.find((rung) => rung.pair > 0);
    const words = { word, answer: answer < 0.001 ? number(answer, 2) : percent(answer, 1), high: top ? top.order : 1, n: seen ? seen.order : 0 };
    if (!run.known) {
      const by = rungs.find((rung) => rung.contribution > 0);
      return t("backoff.says_unknown", { ...words, n: by ? by.order : 0 });
    }
    if (!seen) return t("backoff.says_never", words);
    const key = seen.starred ? "backoff.after" : "backoff.times";
    const unit = t(`unit.${jaxlm.tools.runs[run.index].unit}`);
    words.times = seen.pair < 3 ? t(`${key}_${seen.pair}`, { unit }) : t(key, { n: seen.pair.toLocaleString("en"), unit });
    return t(top && seen.order < top.order ? "backoff.says_lower" : "backoff.says_seen", words);
  }

  function update(state, changed) {
    if (live && ["character", "token", "run"].some((name) => changed.has(name))) live.show();
  }

  jaxlm.view("backoff", { render: inPlace(showIn), update });
})();
