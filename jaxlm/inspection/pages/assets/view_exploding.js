"use strict";
// Vanishing and exploding gradients: the recurrent matrix scaled to a spectral radius that a slider
// sets, and the gradient by lag that this radius gives.
(() => {
  const { el } = jaxlm.tools;
  const { number, lines, choice, inPlace } = jaxlm.charts;
  const kept = { run: 0, radius: null };

  function showIn(section, data, tools) {
    const { t } = tools;
    kept.run = Math.min(kept.run, data.runs.length - 1);
    const run = data.runs[kept.run];
    if (kept.radius === null) kept.radius = nearest(data.radii, 0.9);
    if (data.runs.length > 1) {
      section.append(choice(t("exploding.choose"), data.runs.map((one, i) => ({ value: i, name: one.name })), kept.run, (value) => {
        kept.run = value;
        section.replaceChildren();
        showIn(section, data, tools);
        section.querySelector(`.choice [data-value="${value}"]`)?.focus();
      }));
    }
    const says = el("p", { class: "says", "aria-live": "polite" });
    const slider = el("input", { type: "range", min: 0, max: data.radii.length - 1, step: 1, class: "radius", "aria-label": t("exploding.radius"), list: "exploding-marks" });
    const value = el("output", {});
    const marks = [0.5, 0.9, 1, 1.1, 1.5].map((radius) => el("button", { type: "button", onclick: () => set(nearest(data.radii, radius)) }, number(radius)));
    section.append(says, el("div", { class: "control" }, el("span", {}, t("exploding.radius")), slider, value, el("span", { class: "quick" }, marks)));
    const holder = el("div", {});
    section.append(holder);

    const curve = (i) => run.lags.map((lag, j) => [lag, run.norms[i][j] / run.norms[i][0]]);
    const all = data.radii.flatMap((_, i) => curve(i).map((p) => p[1])).filter((y) => y > 0 && Number.isFinite(y));
    const options = {
      title: t("exploding.chart"), series: [],
      x: { label: t("exploding.lag"), min: run.lags[0], integer: true },
      y: { label: t("exploding.share"), log: true, min: Math.max(1e-12, Math.min(...all)), max: Math.min(1e12, Math.max(10, ...all)) },
      rules: [{ y: 1, text: t("exploding.kept_line") }],
    };
    const own = nearest(data.radii, run.own_radius);
    function series() {
      const ghosts = [0.5, 1, 1.5].map((radius) => nearest(data.radii, radius)).filter((i) => i !== kept.radius)
        .map((i) => ({ name: `ρ = ${number(data.radii[i])}`, index: 5, faint: true, points: curve(i) }));
      return [...ghosts, { name: `ρ = ${data.radii[kept.radius].toFixed(2)}`, index: kindOf(kept.radius), points: curve(kept.radius), dots: 2.6 }];
    }
    const kindOf = (i) => ({ vanishes: 0, kept: 2, explodes: 1 })[run.kinds[i]];
    options.series = series();
    const chart = lines(holder, options);

    function set(i) {
      kept.radius = i;
      slider.value = i;
      tell();
      options.series = series();
      chart.draw();
    }

    function tell() {
      const i = kept.radius, radius = data.radii[i].toFixed(2);
      const last = run.norms[i].at(-1) / run.norms[i][0];
      value.textContent = `ρ = ${radius}`;
      slider.setAttribute("aria-valuetext", `${radius}: ${t(`exploding.${run.kinds[i]}`)}`);
      says.dataset.kind = run.kinds[i];
      says.dataset.radius = radius;
      says.dataset.last = last;
      says.textContent = t(`exploding.says_${run.kinds[i]}`, { radius, lag: run.lags.at(-1), factor: number(run.factors[i], 3), last: number(last) });
    }

    slider.value = kept.radius;
    slider.addEventListener("input", () => set(Number(slider.value)));
    slider.addEventListener("keydown", (event) => event.stopPropagation());
    tell();
    section.append(el("p", { class: "note" }, t("exploding.protocol", { run: run.name, own: number(run.own_radius), layer: run.layer, steps: run.lags.at(-1) }) + (run.gated ? ` ${t("exploding.gated")}` : "")));
    for (const one of data.without) section.append(el("p", { class: "note" }, tools.said(one)));
    section.append(tools.table([t("exploding.radius"), t("exploding.becomes"), ...run.lags.map((lag) => t("exploding.at", { lag }))], data.radii.map((radius, i) => [radius, t(`exploding.${run.kinds[i]}`), ...run.norms[i]])));
  }

  function nearest(values, wanted) {
    return values.reduce((best, v, i) => (Math.abs(v - wanted) < Math.abs(values[best] - wanted) ? i : best), 0);
  }

  jaxlm.view("exploding", { render: inPlace(showIn) });
})();
