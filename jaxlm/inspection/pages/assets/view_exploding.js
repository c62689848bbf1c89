"use strict";
// Vanishing and exploding gradients: a slider sets the spectral radius of the recurrent matrix, and
// the gradient by lag follows, of the matrix alone and of the network with its activations.
(() => {
  const { el } = jaxlm.tools;
  const { number, lines, legend, inPlace } = jaxlm.charts;
  const kept = { run: 0, radius: null };
  const KIND = { vanishes: 0, kept: 2, explodes: 1 };

  function showIn(section, data, tools) {
    const { t } = tools;
    kept.run = Math.min(kept.run, data.runs.length - 1);
    const run = data.runs[kept.run], radii = data.radii, longest = run.linear[0].length - 1, reaches = run.lags.length > 0;
    if (kept.radius === null) kept.radius = nearest(radii, 0.9);
    if (data.runs.length > 1) {
      section.append(tools.choice(t("exploding.choose"), data.runs.map((one, i) => ({ value: i, text: one.name })), kept.run, (value) => {
        kept.run = value;
        section.replaceChildren();
        showIn(section, data, tools);
        section.querySelector(`.choice [data-value="${value}"]`)?.focus();
      }));
    }
    const says = el("p", { class: "finding", "aria-live": "polite" });
    const slider = el("input", { type: "range", min: 0, max: radii.length - 1, step: 1, class: "radius", "aria-label": t("exploding.radius") });
    const value = el("output", { class: "value" });
    const quick = [0.5, 0.9, 1, 1.1, 1.5].map((radius) => el("button", { type: "button", "data-radius": radius, onclick: () => set(nearest(radii, radius)) }, radius.toFixed(1)));
    section.append(el("div", { class: "control" }, el("span", {}, t("exploding.radius")), slider, value, el("span", { class: "quick" }, quick)), says);

    const alone = (i) => run.linear[i].map((factor, lag) => [lag, factor]);
    const network = (i) => run.lags.map((lag, j) => [lag, run.norms[i][j] / run.norms[i][0]]);
    const scale = powers(radii.flatMap((_, i) => [...alone(i), ...network(i)]).map(([, factor]) => factor));
    const body = el("div", {}, legend([{ name: t("exploding.alone"), index: 1, dots: true }, ...(reaches ? [{ name: t("exploding.network", { run: run.name }), index: 0, dash: true }] : [])]));
    const options = {
      title: t("exploding.chart"), series: [], height: 320,
      x: { label: t("exploding.lag"), min: 0, max: longest, integer: true },
      // The scale stays as it is while the radius changes, so that the curve moves and not the axis.
      y: { label: t("exploding.factor"), log: true, min: scale[0], max: scale.at(-1), ticks: scale },
      rules: [{ y: 1, text: t("exploding.kept_line") }],
    };
    function series() {
      const ghosts = [0.5, 1, 1.5].map((radius) => nearest(radii, radius)).filter((i) => i !== kept.radius)
        .map((i) => ({ name: `ρ = ${radii[i]}`, faint: true, points: alone(i) }));
      return [...ghosts,
        { name: t("exploding.alone_short", { radius: radii[kept.radius].toFixed(2) }), index: 1, points: alone(kept.radius), dots: 2.4 },
        ...(reaches ? [{ name: run.name, index: 0, points: network(kept.radius), dash: true, ends: run.lags.at(-1) === longest }] : [])];
    }
    options.series = series();
    section.append(tools.figure({
      title: t("exploding.chart"), body,
      note: [t(run.gated ? "exploding.protocol_gated" : "exploding.protocol", { run: run.name, own: run.own_radii.map((r) => number(r)).join(", ") }), reaches ? t("exploding.positions", { run: run.name, positions: run.positions, longest: run.lags.at(-1) }) : "", t("exploding.why")].join(" "),
      table: () => ({
        headers: [t("exploding.radius"), t("exploding.becomes"), t("exploding.lag"), t("exploding.alone"), t("exploding.network", { run: run.name }), t("exploding.norm")],
        rows: radii.flatMap((radius, i) => run.linear[i].slice(1).map((factor, j) => [radius, t(`exploding.${run.kinds[i]}`), j + 1, factor, ...(j < run.lags.length ? [run.norms[i][j] / run.norms[i][0], run.norms[i][j]] : [null, null])])),
      }),
    }));
    const chart = lines(body, options);

    function set(i) {
      kept.radius = i;
      slider.value = i;
      tell();
      options.series = series();
      chart.draw();
    }

    function tell() {
      const i = kept.radius, radius = radii[i].toFixed(2), kind = run.kinds[i];
      const last = run.linear[i].at(-1), own = reaches ? run.norms[i].at(-1) / run.norms[i][0] : null;
      value.textContent = `ρ = ${radius}`;
      slider.setAttribute("aria-valuetext", `${radius}: ${t(`exploding.${kind}`)}`);
      Object.assign(says.dataset, { kind, radius, last, network: own ?? "none", networkKind: run.network_kinds[i] ?? "none" });
      says.replaceChildren(el("b", {}, t(`exploding.says_${kind}`, { radius, lag: longest, last: number(last) })), " ",
        reaches ? t(`exploding.network_${run.network_kinds[i]}${run.network_kinds[i] === kind ? "" : "_but"}`, { run: run.name, lag: run.lags.at(-1), share: number(own) }) : t("exploding.network_short", { run: run.name }));
    }

    slider.value = kept.radius;
    slider.addEventListener("input", () => set(Number(slider.value)));
    tell();
    for (const why of data.without) section.append(el("p", { class: "note" }, tools.said(why)));
  }

  /** Return the powers of ten at the ticks of the axis: as far below 1 as above, at most 1e10. */
  function powers(factors) {
    const sizes = factors.filter((x) => x > 0 && Number.isFinite(x)).map((x) => Math.abs(Math.log10(x)));
    const largest = Math.min(10, Math.max(1, Math.ceil(Math.max(0, ...sizes))));
    const power = largest > 2 ? largest + (largest % 2) : largest;
    return (power > 1 ? [-power, -power / 2, 0, power / 2, power] : [-1, 0, 1]).map((p) => 10 ** p);
  }

  function nearest(values, wanted) {
    return values.reduce((best, v, i) => (Math.abs(v - wanted) < Math.abs(values[best] - wanted) ? i : best), 0);
  }

  jaxlm.view("exploding", { render: inPlace(showIn) });
})();
