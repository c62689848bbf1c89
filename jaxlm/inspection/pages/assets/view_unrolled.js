"use strict";
// The unrolled network of the lecture, drawn from a run: steps side by side with the same U, the
// loss of each step, and their sum. A click on a loss lights the paths that its gradient takes.
(() => {
  const { el, svg, visible } = jaxlm.tools;
  const { number, percent, shortened, inPlace } = jaxlm.charts;
  const STEP = 95, LEFT = 84, HEIGHT = 352, RIGHT = 98;
  const ROW = { sum: 26, loss: 82, target: 128, state: 204, input: 316 };
  const kept = { run: 0, loss: null, reach: null };

  /** Return what step s contributes to dU through loss t, 0 beyond the reach of the gradient. */
  const flow = (run, t, s) => (s > t || t - s >= kept.reach ? 0 : run.gradients[t][s]);
  const centre = (s) => LEFT + s * STEP + STEP / 2;
  const thickness = (share) => (1.5 + 8.5 * Math.sqrt(share)).toFixed(2);

  function figure(run, tools, pick) {
    const { t } = tools, count = run.inputs.length, width = LEFT + count * STEP + RIGHT;
    const root = svg("svg", { class: "unrolled", viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "group", "aria-label": t("unrolled.figure", { count }) });
    root.append(svg("defs", {}, svg("marker", { id: "unrolled-head", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0,0L8,4L0,8z", class: "head" }))));
    for (const row of Object.keys(ROW)) root.append(svg("text", { class: "row-name", x: 2, y: ROW[row] + 4 }, t(`unrolled.row_${row}`)));
    root.append(...network(run, t), ...lit(run));
    for (let s = 0; s < count; s++) root.append(...step(run, s, tools, pick));
    const last = centre(count - 1);
    root.append(svg("g", { class: "total" }, svg("rect", { x: last + 32, y: ROW.sum - 17, width: 92, height: 34, rx: 8 }), svg("text", { x: last + 78, y: ROW.sum + 5, class: "middle", "data-total": run.total }, `Σ = ${number(run.total)}`)));
    return root;
  }

  /** Return the plain network: arrows from input to state, state to state, state to loss, and the sum. */
  function network(run, t) {
    const count = run.inputs.length, parts = [], arrow = (d, cut) => svg("path", { class: cut ? "edge cut" : "edge", d, "marker-end": "url(#unrolled-head)" });
    for (let s = 0; s < count; s++) {
      const x = centre(s), cut = kept.loss !== null && kept.loss - s === kept.reach - 1 && s > 0;
      parts.push(
        arrow(`M${x},${ROW.input - 16}V${ROW.state + 31}`), arrow(`M${x},${ROW.state - 31}V${ROW.target + 8}`), arrow(`M${x},${ROW.target - 14}V${ROW.loss + 17}`),
        svg("path", { class: "edge", d: `M${x},${ROW.loss - 17}V${ROW.sum}` }),
        arrow(s ? `M${centre(s - 1) + 28},${ROW.state}H${x - 29}` : `M${x - 62},${ROW.state}H${x - 29}`),
        svg("text", { class: "weight middle", x: x - STEP / 2, y: ROW.state - 9 }, "U"),
        svg("text", { class: "weight", x: x + 6, y: ROW.input - 34 }, "W"),
      );
      if (cut) {
        const at = x - STEP / 2 - 16;
        parts.push(svg("line", { class: "scissors", x1: at, x2: at, y1: ROW.sum + 18, y2: ROW.input + 6 }), svg("text", { class: "scissors-name middle", x: at, y: ROW.input + 24 }, `✂ ${t("unrolled.cut")}`));
      }
    }
    parts.push(arrow(`M${centre(0)},${ROW.sum}H${centre(count - 1) + 31}`));
    return parts;
  }

  /** Return the paths that the gradient of the chosen loss takes. */
  function lit(run) {
    if (kept.loss === null) return [];
    const last = kept.loss, most = Math.max(...run.gradients[last]) || 1;
    const parts = [svg("path", { class: "lit", d: `M${centre(last)},${ROW.loss + 17}V${ROW.state - 30}`, "stroke-width": thickness(1) })];
    for (let s = last; s >= 0 && last - s < kept.reach; s--) {
      const share = flow(run, last, s) / most;
      if (share > 0) parts.push(svg("path", { class: "lit", d: `M${centre(s) - 28},${ROW.state}H${s ? centre(s - 1) + 28 : centre(s) - 62}`, "stroke-width": thickness(share), "data-step": s }));
    }
    return parts;
  }

  function step(run, s, tools, pick) {
    const { t } = tools, x = centre(s), chosen = kept.loss === s, press = () => pick(chosen ? null : s);
    const parts = [
      svg("g", { class: "input" }, svg("rect", { x: x - 41, y: ROW.input - 15, width: 82, height: 30, rx: 6 }), name(x, ROW.input + 4, run.inputs[s], 76)),
      state(run, s, x, tools),
      svg("g", { class: "target" }, name(x, ROW.target, run.targets[s], 88)),
      svg("g", {
        class: chosen ? "loss chosen" : "loss", role: "button", tabindex: 0, "aria-pressed": String(chosen), "data-step": s, "data-loss": run.losses[s],
        "aria-label": t("unrolled.press", { step: s + 1, word: visible(run.targets[s]), loss: number(run.losses[s]) }), onclick: press,
        onkeydown: (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          press();
        },
      }, svg("rect", { x: x - 38, y: ROW.loss - 17, width: 76, height: 34, rx: 17 }), svg("text", { x, y: ROW.loss + 5, class: "middle" }, number(run.losses[s]))),
    ];
    if (kept.loss !== null && s <= kept.loss) {
      const value = flow(run, kept.loss, s), cut = kept.loss - s >= kept.reach;
      parts.push(svg("text", { class: cut ? "flow cut" : "flow", x: x - STEP / 2, y: ROW.state + 18, "data-step": s, "data-gradient": value }, cut ? t("unrolled.not_reached") : number(value, 2)));
    }
    return parts;
  }

  const name = (x, y, text, wide) => svg("text", { x, y, class: "middle" }, shortened(visible(text), wide), svg("title", {}, text));

  /** Draw the first units of the state as coloured cells. */
  function state(run, s, x, tools) {
    const cells = run.states[s], columns = Math.min(4, cells.length), rows = Math.ceil(cells.length / columns);
    const w = 48 / columns, h = Math.min(w, 52 / rows);
    return svg("g", { class: "state" }, svg("rect", { x: x - 28, y: ROW.state - 30, width: 56, height: 60, rx: 8 }), cells.map((value, i) =>
      svg("rect", { class: "unit", x: x - 24 + (i % columns) * w, y: ROW.state - (rows * h) / 2 + Math.floor(i / columns) * h, width: w - 1, height: h - 1, style: { fill: tools.colour.diverging(value / run.largest) } }, svg("title", {}, tools.t("unrolled.unit", { unit: i, value: number(value) })))));
  }

  function showIn(section, data, tools) {
    const { t } = tools;
    kept.run = Math.min(kept.run, data.runs.length - 1);
    const run = data.runs[kept.run], count = run.inputs.length;
    kept.reach = Math.min(kept.reach ?? count, count);
    // At first the last loss is lit, so that the figure shows what it is for.
    if (kept.loss === null || kept.loss >= count) kept.loss = kept.cleared ? null : count - 1;
    const again = (focus) => {
      const at = section.querySelector(".scroll")?.scrollLeft || 0;
      section.replaceChildren();
      showIn(section, data, tools);
      section.querySelector(".scroll").scrollLeft = at;
      section.querySelector(focus)?.focus({ preventScroll: true });
    };
    if (data.runs.length > 1) {
      section.append(tools.choice(t("unrolled.choose"), data.runs.map((one, i) => ({ value: i, text: one.name })), kept.run, (value) => {
        Object.assign(kept, { run: value, loss: null, reach: null, cleared: false });
        again(`.choice [data-value="${value}"]`);
      }));
    }
    section.append(el("p", { class: "finding", "aria-live": "polite" }, says(run, t)));
    const pick = (s) => {
      const focus = s ?? kept.loss;
      Object.assign(kept, { loss: s, cleared: s === null });
      again(`.loss[data-step="${focus}"]`);
    };
    const reach = reachText(run, t);
    const slider = el("input", {
      type: "range", min: 1, max: count, class: "reach", "aria-label": t("unrolled.truncate"), "aria-valuetext": reach,
      oninput: (event) => {
        kept.reach = Number(event.target.value);
        again(".reach");
      },
    });
    slider.value = kept.reach;
    const part = run.tokens < run.of_tokens ? t("unrolled.part", { tokens: run.tokens, of: run.of_tokens }) : "";
    const layers = run.matrices > 1 ? t("unrolled.layers", { layers: run.matrices }) : "";
    section.append(tools.figure({
      title: t("unrolled.chart", { run: run.name }),
      body: el("div", {},
        el("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": t("unrolled.chart", { run: run.name }) }, figure(run, tools, pick), bars(run, tools)),
        el("div", { class: "control" }, el("span", {}, t("unrolled.truncate")), slider, el("output", { "data-left-out": run.left_out[kept.reach - 1], "data-reach": kept.reach }, reach))),
      note: [run.last_only ? t("unrolled.last_only") : "", t("unrolled.how", { units: run.states[0].length, of: run.units }), layers, part].filter(Boolean).join(" "),
      table: () => ({
        headers: [...["step", "input", "target", "loss", "contribution"].map((key) => t(`unrolled.${key}`)), ...run.inputs.map((_, s) => t("unrolled.through", { step: s + 1 }))],
        rows: run.inputs.map((word, s) => [s + 1, word, run.targets[s], run.losses[s], run.contributions[s], ...run.gradients[s]]),
      }),
    }));
    for (const why of data.without) section.append(el("p", { class: "note" }, tools.said(why)));
  }

  /** Return the sentence about the lit paths, or how to light them. */
  function says(run, t) {
    if (kept.loss === null) return t("unrolled.light");
    const last = kept.loss, near = flow(run, last, last);
    // The first state may be 0, so that the first step contributes nothing.
    const reached = Array.from({ length: last + 1 }, (_, s) => s).filter((s) => flow(run, last, s) > 0);
    const first = reached.length ? reached[0] : last, far = flow(run, last, first);
    const words = { step: last + 1, word: visible(run.targets[last]), first: first + 1, back: last - first, near: number(near), far: number(far), share: percent(near > 0 ? far / near : 0) };
    if (first >= last) return t(last > 0 && kept.reach === 1 ? "unrolled.says_cut" : "unrolled.says_one", words);
    return t(far < near ? "unrolled.says_fades" : "unrolled.says_grows", words);
  }

  function reachText(run, t) {
    if (kept.reach >= run.inputs.length) return t("unrolled.no_cut");
    return t("unrolled.cut_after", { steps: kept.reach, share: percent(run.left_out[kept.reach - 1]) });
  }

  /** Draw what each step contributes to dL/dU, a bar a step under the figure. */
  function bars(run, tools) {
    const { t } = tools, count = run.inputs.length, most = Math.max(...run.contributions) || 1, width = LEFT + count * STEP + RIGHT;
    return svg("svg", { class: "contributions", viewBox: `0 0 ${width} 74`, width, height: 74, role: "img", "aria-label": t("unrolled.contribution") },
      svg("text", { class: "row-name", x: 2, y: 44 }, "‖dL/dU‖"),
      run.contributions.map((value, s) => [
        svg("rect", { class: "bar", x: centre(s) - 20, y: 50 - (42 * value) / most, width: 40, height: Math.max((42 * value) / most, 0.5), "data-step": s, "data-contribution": value }),
        svg("text", { x: centre(s), y: 66, class: "middle" }, number(value, 2)),
      ]),
      svg("text", { class: "total-name", x: centre(count - 1) + 40, y: 44, "data-gradient-norm": run.gradient_norm }, `‖Σ‖ = ${number(run.gradient_norm)}`));
  }

  jaxlm.view("unrolled", { render: inPlace(showIn) });
})();
