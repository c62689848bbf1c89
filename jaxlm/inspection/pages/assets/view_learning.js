"use strict";
// How a run learned: training and validation loss, and the norm of the gradient, on one time axis.
(() => {
  const { el, visible } = jaxlm.tools;
  const { number, lines, legend, inPlace } = jaxlm.charts;
  const spans = (values) => (values.length ? Math.max(...values) / Math.min(...values) : 1);

  function showIn(section, data, tools) {
    const { t } = tools, many = data.runs.length > 1;
    section.append(el("p", { class: "finding" }, data.runs.map((run) => [
      el("span", { class: "sentence", "data-run": run.name, "data-best": run.best ? run.best.step : "" }, sentence(run, t)), " ",
    ])));
    const name = (run, key) => (many ? t("learning.of", { run: run.name, what: t(key) }) : t(key));
    const last = Math.max(...data.runs.flatMap((run) => [...run.train, ...run.valid].map((p) => p.step)));
    const x = { label: t("learning.step"), min: 0, max: last, integer: true };
    const series = data.runs.flatMap((run) => [
      { name: name(run, "learning.train"), index: run.index, points: run.train.map((p) => [p.step, p.loss]), dots: run.train.length < 8 ? 3 : false },
      { name: name(run, "learning.valid"), index: run.index, points: run.valid.map((p) => [p.step, p.loss]), dash: true, dots: 3.4 },
    ]).filter((s) => s.points.length).map((s) => ({ ...s, ends: false }));
    const losses = series.flatMap((s) => s.points.map((p) => p[1])).filter((v) => v > 0);
    const body = el("div", {}, legend(series));
    section.append(tools.figure({
      title: t("learning.chart"), body, note: t("learning.protocol"),
      table: () => ({
        headers: ["run", "step", "split", "loss", "norm"].map((key) => t(`learning.${key}`)),
        rows: data.runs.flatMap((run) => [
          ...run.train.map((p) => [run.name, p.step, t("learning.train"), p.loss, p.norm]),
          ...run.valid.map((p) => [run.name, p.step, t("learning.valid"), p.loss, null]),
        ]),
      }),
    }));
    lines(body, {
      title: t("learning.chart"), series, x, height: 260,
      y: { label: t("learning.loss"), log: spans(losses) > 30 },
      marks: data.runs.filter((run) => run.best).map((run) => ({ index: run.index, x: run.best.step, y: run.best.loss, text: t("learning.best_mark", { step: run.best.step, ppl: number(Math.exp(run.best.loss), 4) }) })),
    });
    const norms = data.runs.map((run) => ({ name: many ? run.name : t("learning.norm"), index: run.index, ends: false, points: run.train.filter((p) => Number.isFinite(p.norm)).map((p) => [p.step, p.norm]) })).filter((s) => s.points.length);
    if (norms.length) {
      const values = norms.flatMap((s) => s.points.map((p) => p[1])).filter((v) => v > 0);
      const clips = data.runs.length === 1 && data.runs[0].clip && data.runs[0].clip <= 3 * Math.max(...values) ? [data.runs[0].clip] : [];
      lines(body, {
        title: t("learning.norm"), series: norms.map((s) => ({ ...s, dots: s.points.length < 8 ? 3 : false })), x, height: 170,
        y: { label: t("learning.norm"), log: spans(values) > 30, min: spans(values) > 30 ? undefined : 0 },
        rules: clips.map((clip) => ({ y: clip, text: t("learning.clip", { clip: number(clip) }) })),
      });
    }
    for (const run of data.runs) {
      if (!run.samples.length) continue;
      section.append(el("h3", {}, t("learning.samples", { run: run.name })), el("ol", { class: "samples" }, run.samples.map((one) => el("li", {}, el("span", { class: "at-step" }, t("learning.at_step", { step: one.step })), " ", el("q", { dir: "auto" }, visible(one.text))))));
    }
    for (const why of data.without) section.append(el("p", { class: "note" }, tools.said(why)));
  }

  function sentence(run, t) {
    const first = run.train[0] || run.valid[0], last = run.train.at(-1) || run.valid.at(-1);
    const words = { run: run.name, first: number(first.loss), last: number(last.loss), from: first.step, step: last.step };
    if (!run.best) return t("learning.says_train", words);
    const end = run.valid.at(-1);
    const more = { ...words, best: run.best.step, ppl: number(Math.exp(run.best.loss), 4), end: number(Math.exp(end.loss), 4) };
    if (run.valid.length === 1) return t("learning.says_once", more);
    return t(end.step > run.best.step ? "learning.says_turned" : "learning.says", more);
  }

  jaxlm.view("learning", { render: inPlace(showIn) });
})();
