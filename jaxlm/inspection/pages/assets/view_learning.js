"use strict";
// How a run learned: training and validation loss, and the norm of the gradient, on one time axis.
(() => {
  const { el, visible } = jaxlm.tools;
  const { number, lines, legend, inPlace } = jaxlm.charts;

  function showIn(section, data, tools) {
    const { t } = tools;
    const says = el("p", { class: "says" });
    section.append(says);
    for (const run of data.runs) {
      says.append(el("span", { class: "sentence", "data-run": run.name, "data-best": run.best ? run.best.step : "" }, sentence(run, t)), " ");
    }
    const many = data.runs.length > 1;
    const name = (run, key) => (many ? `${run.name}${t("learning.colon")}${t(key)}` : t(key));
    const items = data.runs.flatMap((run) => [
      run.train.length ? { name: name(run, "learning.train"), index: run.index } : null,
      run.valid.length ? { name: name(run, "learning.valid"), index: run.index, dash: true, dots: true } : null,
    ].filter(Boolean));
    section.append(legend(items));
    const last = Math.max(...data.runs.flatMap((run) => [...run.train, ...run.valid].map((p) => p.step)));
    const x = { label: t("learning.step"), min: 0, max: last, integer: true };
    const series = data.runs.flatMap((run) => [
      { name: name(run, "learning.train"), index: run.index, points: run.train.map((p) => [p.step, p.loss]), dots: run.train.length < 3 },
      { name: name(run, "learning.valid"), index: run.index, points: run.valid.map((p) => [p.step, p.loss]), dash: true, dots: 3.4 },
    ]).filter((s) => s.points.length).map((s) => ({ ...s, ends: false }));
    const losses = series.flatMap((s) => s.points.map((p) => p[1])).filter((v) => v > 0);
    const log = losses.length > 0 && Math.max(...losses) / Math.min(...losses) > 30;
    lines(section, {
      title: t("learning.chart"), series, x,
      y: { label: t("learning.loss"), log }, height: 260,
      marks: data.runs.filter((run) => run.best).map((run) => ({ index: run.index, x: run.best.step, y: run.best.loss, text: t("learning.best", { step: run.best.step, ppl: number(Math.exp(run.best.loss), 4) }) })),
    });
    const norms = data.runs.map((run) => ({ name: many ? run.name : t("learning.norm"), index: run.index, ends: false, points: run.train.filter((p) => p.norm !== null).map((p) => [p.step, p.norm]) })).filter((s) => s.points.length);
    if (norms.length) {
      const values = norms.flatMap((s) => s.points.map((p) => p[1])).filter((v) => v > 0);
      lines(section, {
        title: t("learning.norm_chart"), series: norms.map((s) => ({ ...s, dots: s.points.length < 3 })), x,
        y: { label: t("learning.norm"), log: values.length > 0 && Math.max(...values) / Math.min(...values) > 30 }, height: 170,
        rules: data.runs.filter((run) => run.clip && norms.length === 1 && run.clip <= 2 * Math.max(...values)).map((run) => ({ y: run.clip, text: t("learning.clip", { clip: number(run.clip) }) })),
      });
    }
    for (const run of data.runs) {
      if (!run.samples.length) continue;
      section.append(el("h4", {}, many ? t("learning.samples_of", { run: run.name }) : t("learning.samples")));
      section.append(el("ol", { class: "samples" }, run.samples.map((one) => el("li", {}, el("span", { class: "at-step" }, t("learning.at_step", { step: one.step })), el("q", {}, visible(one.text))))));
    }
    for (const run of data.without) section.append(el("p", { class: "note" }, tools.said(run)));
    const rows = data.runs.flatMap((run) => [
      ...run.train.map((p) => [run.name, p.step, t("learning.train"), p.loss, p.norm ?? ""]),
      ...run.valid.map((p) => [run.name, p.step, t("learning.valid"), p.loss, ""]),
    ]);
    section.append(tools.table([t("learning.run"), t("learning.step"), t("learning.split"), t("learning.loss"), t("learning.norm")], rows));
  }

  function sentence(run, t) {
    const first = run.train[0] || run.valid[0], last = run.train.at(-1) || run.valid.at(-1);
    const words = { run: run.name, first: number(first.loss), last: number(last.loss), step: last.step };
    if (!run.best) return t("learning.says_train", words);
    const end = run.valid.at(-1);
    const more = { ...words, best: run.best.step, ppl: number(Math.exp(run.best.loss), 4), end: number(Math.exp(end.loss), 4) };
    return t(end.step > run.best.step ? "learning.says_turned" : "learning.says", more);
  }

  jaxlm.view("learning", { render: inPlace(showIn) });
})();
