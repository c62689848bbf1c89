"use strict";
// The unrolled network of the lecture, drawn from a run: steps side by side with the same U, the
// loss of each step, and their sum. A click on a loss lights the paths that its gradient takes.
(() => {
  const { el, svg, visible } = jaxlm.tools;
  const { number, percent, shortened, inPlace } = jaxlm.charts;
  const STEP = 104, LEFT = 70, HEIGHT = 372;
  const ROW = { sum: 26, loss: 84, word: 132, state: 206, input: 312 };
  const kept = { run: 0, loss: null, every: null };

  /** Return the norm of d loss[t] / d state[k], 0 where a cut lies between the steps. */
  function flow(run, t, k, every) {
    if (k > t || Math.floor(k / every) !== Math.floor(t / every)) return 0;
    return run.gradients[t][k];
  }

  function arrow(from, to, attributes) {
    return svg("path", { d: `M${from[0]},${from[1]}L${to[0]},${to[1]}`, ...attributes });
  }

  function draw(run, tools, pick) {
    const { t } = tools, count = run.inputs.length, every = kept.every;
    const width = LEFT + count * STEP + 96;
    const x = (k) => LEFT + k * STEP + STEP / 2 - 10;
    const root = svg("svg", { class: "unrolled", viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "group", "aria-label": t("unrolled.figure", { count }) });
    root.append(svg("defs", {}, svg("marker", { id: "unrolled-head", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0,0L8,4L0,8z", class: "head" }))));
    const names = [["sum", "unrolled.sum"], ["loss", "unrolled.loss"], ["word", "unrolled.target"], ["state", "unrolled.state"], ["input", "unrolled.input"]];
    for (const [row, key] of names) root.append(svg("text", { class: "row-name", x: 4, y: ROW[row] + 4 }, t(key)));

    const most = kept.loss === null ? 0 : Math.max(...run.gradients[kept.loss]);
    const strength = (k) => (kept.loss === null || !most ? 0 : flow(run, kept.loss, k, every) / most);
    // The plain network first: the lit paths lie above it.
    const plain = { class: "edge", "marker-end": "url(#unrolled-head)" };
    for (let k = 0; k < count; k++) {
      const cut = k > 0 && k % every === 0;
      root.append(
        arrow([x(k), ROW.input - 16], [x(k), ROW.state + 31], plain),
        arrow([x(k), ROW.state - 31], [x(k), ROW.word + 14], plain),
        arrow([x(k), ROW.word - 14], [x(k), ROW.loss + 18], plain),
        svg("path", { class: "edge", d: `M${x(k)},${ROW.loss - 18}V${ROW.sum}` }),
        arrow([k ? x(k - 1) + 26 : x(k) - 58, ROW.state], [x(k) - 28, ROW.state], { ...plain, class: cut ? "edge cut" : "edge" }),
        svg("text", { class: "weight", x: x(k) - STEP / 2, y: ROW.state - 9, "text-anchor": "middle" }, "U"),
        svg("text", { class: "weight", x: x(k) + 5, y: ROW.input - 44 }, "W"),
      );
      if (cut) {
        root.append(
          svg("line", { class: "scissors", x1: x(k) - STEP / 2 - 2, x2: x(k) - STEP / 2 - 2, y1: ROW.sum + 22, y2: ROW.input + 22 }),
          svg("text", { class: "scissors-name", x: x(k) - STEP / 2 - 2, y: ROW.input + 36, "text-anchor": "middle" }, `✂ ${t("unrolled.cut")}`),
        );
      }
    }
    root.append(svg("path", { class: "edge", d: `M${x(0)},${ROW.sum}H${x(count - 1) + 34}`, "marker-end": "url(#unrolled-head)" }));

    if (kept.loss !== null) {
      const last = kept.loss;
      root.append(svg("path", { class: "lit", d: `M${x(last)},${ROW.loss + 18}V${ROW.state - 30}`, "stroke-width": 7 }));
      for (let k = last; k >= 0; k--) {
        const share = strength(k);
        if (share <= 0) break;
        if (k < last) {
          root.append(svg("path", { class: "lit", d: `M${x(k + 1) - 28},${ROW.state}H${x(k) + 26}`, "stroke-width": thickness(share) }));
        }
        root.append(
          svg("path", { class: "lit", d: `M${x(k)},${ROW.state + 30}V${ROW.input - 15}`, "stroke-width": thickness(share) }),
        );
      }
    }

    for (let k = 0; k < count; k++) {
      root.append(
        svg("g", { class: "input" }, svg("rect", { x: x(k) - 44, y: ROW.input - 15, width: 88, height: 30, rx: 6 }), label(x(k), ROW.input + 4, visible(run.inputs[k]), 82)),
        state(run, k, x(k)),
        svg("g", { class: "target" }, label(x(k), ROW.word, visible(run.targets[k]), 92), svg("title", {}, run.targets[k])),
      );
      const share = strength(k);
      if (kept.loss !== null && k <= kept.loss) {
        root.append(svg("text", { class: "flow", x: x(k), y: ROW.state + 45, "text-anchor": "middle", "data-step": k, "data-gradient": flow(run, kept.loss, k, every) }, share > 0 ? number(flow(run, kept.loss, k, every)) : t("unrolled.nothing")));
      }
      root.append(lossButton(run, k, x(k), tools, pick));
    }
    root.append(
      svg("g", { class: "total" }, svg("rect", { x: x(count - 1) + 36, y: ROW.sum - 18, width: 84, height: 36, rx: 8 }), svg("text", { x: x(count - 1) + 78, y: ROW.sum + 5, "text-anchor": "middle", "data-total": run.total }, `Σ ${number(run.total)}`)),
    );
    return root;
  }

  const thickness = (share) => (1.2 + 8 * Math.sqrt(share)).toFixed(2);

  function label(x, y, text, wide) {
    return svg("text", { x, y, "text-anchor": "middle" }, shortened(text, wide), svg("title", {}, text));
  }

  function state(run, k, x) {
    const cells = run.states[k], columns = Math.min(4, cells.length), rows = Math.ceil(cells.length / columns);
    const w = 48 / columns, h = Math.min(w, 56 / rows);
    const box = svg("g", { class: "state" }, svg("rect", { x: x - 28, y: ROW.state - 30, width: 56, height: 60, rx: 8 }));
    cells.forEach((value, i) => {
      box.append(svg("rect", { x: x - 24 + (i % columns) * w, y: ROW.state - (rows * h) / 2 + Math.floor(i / columns) * h, width: w - 1, height: h - 1, class: "unit", style: { fill: run.colour(value) } }, svg("title", {}, number(value))));
    });
    return box;
  }

  function lossButton(run, k, x, tools, pick) {
    const chosen = kept.loss === k;
    const press = () => pick(chosen ? null : k);
    return svg("g", {
      class: chosen ? "loss chosen" : "loss", role: "button", tabindex: 0, "aria-pressed": chosen ? "true" : "false",
      "aria-label": tools.t("unrolled.press", { step: k + 1, word: visible(run.targets[k]), loss: number(run.losses[k]) }),
      "data-step": k, "data-loss": run.losses[k], onclick: press,
      onkeydown: (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          press();
        }
      },
    },
    svg("rect", { x: x - 36, y: ROW.loss - 18, width: 72, height: 36, rx: 18 }),
    svg("text", { x, y: ROW.loss + 5, "text-anchor": "middle" }, number(run.losses[k])));
  }

  /** Return the sentence about the lit paths, or how to light them. */
  function says(run, tools) {
    const { t } = tools, count = run.inputs.length;
    if (kept.loss === null) return t("unrolled.how");
    const first = Math.floor(kept.loss / kept.every) * kept.every;
    const near = flow(run, kept.loss, kept.loss, kept.every), far = flow(run, kept.loss, first, kept.every);
    const words = { step: kept.loss + 1, word: visible(run.targets[kept.loss]), first: first + 1, near: number(near), far: number(far), share: percent(near ? far / near : 0) };
    if (first === kept.loss) return t(kept.every < count && kept.loss > 0 ? "unrolled.all_cut" : "unrolled.one_step", words);
    return t(far < near ? "unrolled.fades" : "unrolled.grows", words);
  }

  function showIn(section, data, tools) {
    const { t } = tools;
    const runs = data.runs;
    kept.run = Math.min(kept.run, runs.length - 1);
    const run = { ...runs[kept.run], colour: (value) => tools.colour.diverging(value / runs[kept.run].largest) };
    const count = run.inputs.length;
    kept.every = Math.min(kept.every ?? count, count);
    if (kept.loss !== null && kept.loss >= count) kept.loss = null;
    const again = (focus) => {
      const scrolled = section.querySelector(".scroll")?.scrollLeft || 0;
      section.replaceChildren();
      showIn(section, data, tools);
      section.querySelector(".scroll").scrollLeft = scrolled;
      section.querySelector(focus)?.focus();
    };
    if (runs.length > 1) {
      section.append(tools.choice(t("unrolled.choose"), runs.map((one, i) => ({ value: i, text: one.name })), kept.run, (value) => {
        kept.run = value;
        kept.loss = null;
        kept.every = null;
        again(`.choice [data-value="${value}"]`);
      }));
    }
    section.append(el("p", { class: "finding", "aria-live": "polite" }, says(run, tools)));
    const pick = (k) => {
      const step = k ?? kept.loss;
      kept.loss = k;
      again(`.loss[data-step="${step}"]`);
    };
    section.append(el("div", { class: "scroll" }, draw(run, tools, pick)));
    const left = run.left_out[kept.every - 1];
    const slider = el("input", {
      type: "range", min: 1, max: count, value: kept.every, class: "unrolled-cut",
      "aria-label": t("unrolled.truncate"), "aria-valuetext": cutText(run, tools),
      oninput: (event) => {
        kept.every = Number(event.target.value);
        again(".unrolled-cut");
      },
    });
    section.append(
      el("label", { class: "control" }, el("span", {}, t("unrolled.truncate")), slider, el("output", { "data-left-out": left }, cutText(run, tools))),
      el("p", { class: "note" }, t("unrolled.contributions", { total: number(run.gradient_norm) })),
      el("div", { class: "scroll" }, bars(run, tools)),
    );
    const rows = run.inputs.map((word, k) => [k + 1, visible(word), visible(run.targets[k]), run.losses[k], run.contributions[k], ...run.gradients[k].slice(0, k + 1)]);
    const heads = [t("unrolled.step"), t("unrolled.input"), t("unrolled.target"), t("unrolled.loss"), t("unrolled.contribution")];
    section.append(tools.table([...heads, ...run.inputs.map((_, k) => t("unrolled.gradient_at", { step: k + 1 }))], rows));
  }

  function cutText(run, tools) {
    const count = run.inputs.length;
    if (kept.every >= count) return tools.t("unrolled.no_cut");
    return tools.t("unrolled.cut_every", { steps: kept.every, share: percent(run.left_out[kept.every - 1]) });
  }

  /** Draw what each step contributes to the gradient of U, a bar a step under the figure. */
  function bars(run, tools) {
    const count = run.inputs.length, most = Math.max(...run.contributions) || 1;
    const width = LEFT + count * STEP + 96;
    const root = svg("svg", { class: "contributions", viewBox: `0 0 ${width} 76`, width, height: 76, role: "img", "aria-label": tools.t("unrolled.contribution") });
    run.contributions.forEach((value, k) => {
      const x = LEFT + k * STEP + STEP / 2 - 10, size = (44 * value) / most;
      root.append(
        svg("rect", { class: "bar", x: x - 20, y: 48 - size, width: 40, height: Math.max(size, 0.5), "data-step": k, "data-contribution": value }),
        svg("text", { x, y: 64, "text-anchor": "middle" }, number(value)),
      );
    });
    return root;
  }

  jaxlm.view("unrolled", { render: inPlace(showIn) });
})();
