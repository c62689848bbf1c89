"use strict";
// How far back a model remembers: the size of d loss / d embedding by the distance between them, as
// a share of its value at lag 1, trained (solid) and before training (dashed).
(() => {
  const { el } = jaxlm.tools;
  const { number, percent, lines, legend, inPlace } = jaxlm.charts;

  // The share is 0 everywhere if the gradient at lag 1 is 0.
  const relative = (one) => one.norms.map((norm, i) => [one.lags[i], one.norms[0] > 0 ? norm / one.norms[0] : 0]);

  function showIn(section, data, tools) {
    const { t } = tools, unit = (run) => t(`unit.${run.unit}`);
    section.append(el("p", { class: "finding" }, byConstant(data.runs).map((run) => [
      el("span", { class: "sentence", "data-run": run.name, "data-below": run.trained.below ?? "none", "data-constant": run.trained.time_constant ?? "none" }, sentence(run, unit(run), t)), " ",
    ])));
    const curves = data.runs.map((run) => ({ run, trained: relative(run.trained), untrained: relative(run.untrained) }));
    const shares = curves.flatMap((curve) => [...curve.trained, ...curve.untrained].map((p) => p[1])).filter((y) => y > 0);
    const low = Math.max(1e-5, Math.min(0.003, ...shares));
    // Beyond its window a model has a gradient of exactly 0: its line falls to the axis, and ends.
    const drawn = (points) => {
      const end = points.findIndex((p) => p[1] <= 0);
      return end < 0 ? points : [...points.slice(0, end), [points[end][0], low]];
    };
    const series = curves.flatMap(({ run, trained, untrained }) => [
      { name: run.name, index: run.index, points: drawn(trained), dots: 2 },
      { name: t("gradients.untrained", { run: run.name }), index: run.index, points: drawn(untrained), dash: true, ends: false },
    ]);
    const marks = curves.filter(({ run }) => run.trained.below !== null && run.trained.below <= run.trained.lags.at(-1)).map(({ run, trained }) => {
      const [x, y] = trained.find(([lag]) => lag === run.trained.below);
      return { index: run.index, x, y: Math.max(y, low), text: t("gradients.mark", { run: run.name, lag: x }) };
    });
    const body = el("div", {}, legend([
      ...data.runs.map((run) => ({ name: t("gradients.trained", { run: run.name }), index: run.index, dots: true })),
      { name: t("gradients.dashed"), index: data.runs[0].index, dash: true },
    ]));
    section.append(tools.figure({
      title: t("gradients.chart"), body,
      note: data.runs.map((run) => t("gradients.protocol", { run: run.name, positions: run.trained.positions, unit: unit(run), longest: run.trained.lags.at(-1) })).concat(t("gradients.constant_means")).join(" "),
      table: () => ({
        headers: ["run", "lag", "norm", "share", "norm_untrained", "share_untrained"].map((key) => t(`gradients.head_${key}`)),
        rows: curves.flatMap(({ run, trained, untrained }) => run.trained.lags.map((lag, i) => [run.name, lag, run.trained.norms[i], trained[i][1], run.untrained.norms[i], untrained[i][1]])),
      }),
    }));
    lines(body, {
      title: `${t("gradients.chart")}. ${byConstant(data.runs).map((run) => sentence(run, unit(run), t)).join(" ")}`,
      series, marks,
      x: { label: t("gradients.lag"), min: 1, integer: true },
      y: { label: t("gradients.share"), log: true, min: low, max: Math.max(1.5, ...shares), format: share },
      read: (lag) => `${t("gradients.lag")} ${lag}: ${curves.flatMap(({ run, trained, untrained }) => {
        const at = run.trained.lags.indexOf(lag);
        return at < 0 ? [] : [`${run.name} ${share(trained[at][1])}`, `${t("gradients.untrained", { run: run.name })} ${share(untrained[at][1])}`];
      }).join(" · ")}`,
      rules: [{ y: 0.01, text: t("gradients.one_percent") }],
    });
    for (const why of data.without) section.append(el("p", { class: "note" }, tools.said(why)));
  }

  const share = (y) => (y >= 1e-5 ? `${number(100 * y)}%` : number(y));

  /** Return the runs, the shortest time constant first; a curve that does not fall has none. */
  const byConstant = (runs) => [...runs].sort((a, b) => (a.trained.time_constant ?? Infinity) - (b.trained.time_constant ?? Infinity) || a.index - b.index);

  function sentence(run, unit, t) {
    const one = run.trained;
    const words = { run: run.name, lag: one.below, unit, longest: one.lags.at(-1), share: percent(one.norms.at(-1) / one.norms[0]), window: run.window };
    words.constant = one.time_constant === null ? "" : t("gradients.constant", { time: number(one.time_constant), unit });
    if (run.window !== null && one.below !== null && one.below >= run.window) return t("gradients.says_window", words);
    return t(one.below === null ? "gradients.says_long" : "gradients.says", words);
  }

  jaxlm.view("gradients", { render: inPlace(showIn) });
})();
