"use strict";
// How far back a model remembers: the size of d loss / d embedding by the distance between them, as
// a share of its value at lag 1, trained (solid) and before training (dashed).
(() => {
  const { el } = jaxlm.tools;
  const { number, percent, lines, legend, inPlace } = jaxlm.charts;

  const relative = (one) => one.norms.map((norm, i) => [one.lags[i], norm / one.norms[0]]);

  function showIn(section, data, tools) {
    const { t } = tools;
    const says = el("p", { class: "says" });
    for (const run of data.runs) says.append(el("span", { class: "sentence", "data-run": run.name, "data-below": run.trained.below ?? "" }, sentence(run, t)), " ");
    section.append(says);
    const series = data.runs.flatMap((run) => [
      { name: run.name, index: run.index, points: relative(run.trained), dots: 2.2 },
      { name: t("gradients.untrained", { run: run.name }), index: run.index, points: relative(run.untrained), dash: true, ends: false },
    ]);
    section.append(legend([
      ...data.runs.map((run) => ({ name: run.name, index: run.index, dots: true })),
      { name: t("gradients.dashed"), index: data.runs[0].index, dash: true },
    ]));
    const positive = series.flatMap((s) => s.points.map((p) => p[1])).filter((y) => y > 0);
    const marks = data.runs.filter((run) => run.trained.below !== null).map((run) => {
      const at = run.trained.lags.indexOf(run.trained.below);
      const y = run.trained.norms[at] / run.trained.norms[0];
      return { index: run.index, x: run.trained.below, y: Math.max(y, 1e-6), text: t("gradients.mark", { run: run.name, lag: run.trained.below }) };
    });
    lines(section, {
      title: t("gradients.chart"),
      series,
      x: { label: t("gradients.lag"), min: 1, integer: true },
      y: { label: t("gradients.share"), log: true, min: Math.max(1e-6, Math.min(0.003, ...positive)), max: Math.max(1.5, ...positive), format: shareText },
      rules: [{ y: 0.01, text: t("gradients.one_percent") }],
      marks,
    });
    section.append(el("p", { class: "note" }, data.runs.map((run) => t("gradients.protocol", { run: run.name, positions: run.trained.positions, unit: t(`gradients.unit_${run.unit}`), longest: run.trained.lags.at(-1) })).join(" ")));
    for (const run of data.without) section.append(el("p", { class: "note" }, tools.said(run)));
    const rows = data.runs.flatMap((run) => run.trained.lags.map((lag, i) => [run.name, lag, run.trained.norms[i], run.trained.norms[i] / run.trained.norms[0], run.untrained.norms[i], run.untrained.norms[i] / run.untrained.norms[0]]));
    section.append(tools.table([t("gradients.run"), t("gradients.lag"), t("gradients.norm"), t("gradients.share"), t("gradients.norm_untrained"), t("gradients.share_untrained")], rows));
  }

  const shareText = (y) => (y >= 1e-4 ? `${number(100 * y)}%` : number(y));

  function sentence(run, t) {
    const one = run.trained, unit = t(`gradients.unit_${run.unit}`);
    const words = { run: run.name, lag: one.below, unit, longest: one.lags.at(-1), share: percent(one.norms.at(-1) / one.norms[0]), time: number(one.time_constant), window: run.window };
    if (run.window !== null && one.below !== null && one.below > run.window) return t("gradients.says_window", words);
    return t(one.below === null ? "gradients.says_long" : "gradients.says", words);
  }

  jaxlm.view("gradients", { render: inPlace(showIn) });
})();
