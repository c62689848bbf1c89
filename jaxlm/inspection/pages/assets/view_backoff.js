"use strict";
// The ladder of an n-gram's answer at the selected token: for each order the context, the counts,
// the discount and the weight, and a bar that adds up to the answer.
(() => {
  const { el, svg, visible } = jaxlm.tools;
  const { number, percent, shortened, inPlace } = jaxlm.charts;
  const kept = { run: 0, at: null };
  let live = null;

  function unpacked(run, tools) {
    const arrays = {};
    for (const [name, packed] of Object.entries(run.arrays)) arrays[name] = tools.array(packed);
    return { ...run, ...arrays };
  }

  /** Return the rungs at a position, longest order first, as objects. */
  function ladder(run, at) {
    const rungs = [];
    for (let r = 0; r < run.rungs; r++) {
      const cell = (name) => run[name][at * run.rungs + r];
      const order = run.orders[r];
      const words = [];
      for (let back = order - 1; back >= 1; back--) {
        const id = run.context[at * run.longest + run.longest - back];
        words.push(id < 0 ? null : run.words[id]);
      }
      rungs.push({ order, words, whole: words.every((w) => w !== null), context: cell("context_count"), pair: cell("pair_count"), discount: cell("discount"), probability: cell("probability"), weight: cell("weight"), contribution: cell("contribution") });
    }
    return rungs;
  }

  function showIn(section, data, tools) {
    const { t } = tools;
    kept.run = Math.min(kept.run, data.runs.length - 1);
    const run = unpacked(data.runs[kept.run], tools);
    if (data.runs.length > 1) {
      section.append(tools.choice(t("backoff.choose"), data.runs.map((one, i) => ({ value: i, text: one.name })), kept.run, (value) => {
        Object.assign(kept, { run: value, at: null });
        section.replaceChildren();
        showIn(section, data, tools);
        section.querySelector(`.choice [data-value="${value}"]`)?.focus();
      }));
    }
    const body = el("div", {});
    const move = el("div", { class: "step-word" });
    section.append(move, body);
    if (kept.at === null) kept.at = placeOf(run, tools) ?? Math.min(run.first, run.tokens.length - 1);

    function show(at) {
      kept.at = Math.max(0, Math.min(run.tokens.length - 1, at));
      const word = visible(run.tokens[kept.at]);
      const before = run.tokens.slice(Math.max(0, kept.at - 6), kept.at).map(visible);
      const after = run.tokens.slice(kept.at + 1, kept.at + 4).map(visible);
      const gap = run.blank;
      move.replaceChildren(
        el("button", { type: "button", "aria-label": t("backoff.back"), disabled: kept.at === 0, onclick: () => show(kept.at - 1) }, "‹"),
        el("span", { class: "in-text" }, before.join(gap) + gap, el("b", {}, word), gap + after.join(gap)),
        el("button", { type: "button", "aria-label": t("backoff.on"), disabled: kept.at === run.tokens.length - 1, onclick: () => show(kept.at + 1) }, "›"));
      body.replaceChildren(...parts(kept.at));
    }

    function parts(at) {
      const rungs = ladder(run, at), word = visible(run.tokens[at]), answer = run.answer[at];
      const says = el("p", { class: "finding", "aria-live": "polite", "data-answer": answer }, sentence(run, rungs, word, answer, t));
      const head = ["backoff.order", "backoff.context", "backoff.context_count", "backoff.pair_count", "backoff.discount", "backoff.probability", "backoff.weight", "backoff.adds"];
      const table = el("table", { class: "ladder" }, el("thead", {}, el("tr", {}, head.map((key) => el("th", { scope: "col" }, t(key))))));
      const rows = el("tbody", {});
      let from = 0;
      rungs.forEach((rung, r) => {
        const share = answer > 0 ? rung.contribution / answer : 0;
        const seen = rung.pair > 0 ? "seen" : rung.pair === 0 ? "unseen" : "";
        rows.append(el("tr", { class: seen, "data-order": rung.order, "data-contribution": rung.contribution, "data-pair-count": rung.pair, "data-context-count": rung.context, "data-weight": rung.weight },
          el("th", { scope: "row" }, rung.order > 0 ? t("backoff.gram", { n: rung.order }) : t("backoff.uniform")),
          el("td", { class: "context" }, contextOf(rung, run, t), " ", el("b", {}, word)),
          el("td", {}, count(rung.context)), el("td", { class: "pair" }, count(rung.pair)),
          el("td", {}, number(rung.discount)), el("td", {}, number(rung.probability)), el("td", {}, number(rung.weight)),
          el("td", { class: "adds" }, bar(from, share, r), el("span", {}, number(rung.contribution)))));
        from += share;
      });
      rows.append(el("tr", { class: "sum" }, el("th", { scope: "row", colspan: 7 }, t("backoff.answer", { word })), el("td", { class: "adds" }, bar(0, 1, -1), el("b", {}, number(answer, 4)))));
      table.append(rows);
      const data = rungs.map((rung) => [rung.order, rung.words.map((w) => (w === null ? "" : visible(w))).join(" "), word, blankIfUnknown(rung.context), blankIfUnknown(rung.pair), blankIfUnknown(rung.discount), rung.probability, rung.weight, rung.contribution]);
      const found = [says, el("div", { class: "scroll" }, table), el("p", { class: "note" }, t(`backoff.how_${run.kind}`, { smoothing: run.smoothing }))];
      if (run.note) found.push(el("p", { class: "note" }, tools.said(run.note)));
      found.push(tools.table([t("backoff.order"), t("backoff.context"), t("backoff.word"), t("backoff.context_count"), t("backoff.pair_count"), t("backoff.discount"), t("backoff.probability"), t("backoff.weight"), t("backoff.adds")], data));
      return found;
    }

    show(kept.at);
    live = { run, show, place: () => placeOf(run, tools) };
  }

  const count = (n) => (Number.isNaN(n) || n < 0 ? "–" : n.toLocaleString("en"));
  const blankIfUnknown = (n) => (Number.isNaN(n) || n < 0 ? "" : n);

  function contextOf(rung, run, t) {
    if (rung.order <= 1) return el("span", { class: "no-context" }, t("backoff.none"));
    if (!rung.whole) return el("span", { class: "no-context" }, t("backoff.too_early"));
    const text = rung.words.map(visible).join(run.blank);
    return el("span", { title: text }, shortened(text, 230));
  }

  function bar(from, share, rung) {
    const root = svg("svg", { class: "share", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
    root.append(svg("rect", { class: "track", x: 0, y: 0, width: 100, height: 10 }));
    root.append(svg("rect", { class: rung < 0 ? "whole" : "part", x: 100 * from, y: 0, width: Math.max(share > 0 ? 0.8 : 0, 100 * share), height: 10 }));
    return root;
  }

  function sentence(run, rungs, word, answer, t) {
    const top = rungs.find((rung) => rung.order > 1 && rung.whole);
    const seen = rungs.find((rung) => rung.pair > 0 && rung.order >= 1 && (rung.whole || rung.order === 1));
    const words = { word, answer: percent(answer, 2), high: top ? top.order : 1, n: seen ? seen.order : 0, times: seen ? times(seen.pair, t) : "" };
    if (!seen) return t(rungs.some((rung) => rung.pair === 0) ? "backoff.says_never" : "backoff.says_unknown", words);
    if (top && seen.order < top.order) return t("backoff.says_lower", words);
    return t("backoff.says_seen", words);
  }

  function times(n, t) {
    return n === 1 ? t("backoff.once") : n === 2 ? t("backoff.twice") : t("backoff.times", { n: n.toLocaleString("en") });
  }

  function update(selection) {
    if (!live) return;
    const at = live.place();
    if (at !== null && at !== undefined && at !== kept.at) live.show(at);
  }

  jaxlm.view("backoff", { render: inPlace(showIn), update });
})();
