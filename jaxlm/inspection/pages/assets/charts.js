"use strict";
// Line charts in SVG, shared by the views: axes, log scales, direct labels, marks, and a cursor
// that reads the values with pointer, touch or keyboard. Text comes in as data: no innerHTML.
(() => {
  const { el, svg, colour } = jaxlm.tools;

  /** Return a number as a short text: 3 digits, or a power of ten where it is tiny or huge. */
  function number(value, digits = 3) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e6) return sign(String(value));
    if (size >= 1e-3 && size < 1e5) return sign(String(Number(value.toPrecision(digits))));
    const [mantissa, exponent] = value.toExponential(Math.max(0, digits - 2)).split("e");
    return `${sign(mantissa)}×10${raised(Number(exponent))}`;
  }

  const sign = (text) => text.replace("-", "−");
  const raised = (n) => [...String(n)].map((d) => (d === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[d])).join("");

  /** Return a probability or a share as a percentage. */
  function percent(value, digits = 1) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const hundred = 100 * value;
    if (hundred !== 0 && Math.abs(hundred) < 10 ** -digits) return `< ${10 ** -digits}%`;
    return `${sign(hundred.toFixed(digits))}%`;
  }

  function linearTicks(low, high, count, integer) {
    const raw = (high - low) / Math.max(1, count) || 1;
    const base = 10 ** Math.floor(Math.log10(raw));
    let step = [1, 2, 5, 10].map((n) => n * base).find((n) => n >= raw * 0.999);
    if (integer) step = Math.max(1, Math.round(step));
    const ticks = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) {
      ticks.push(Number((n * step).toPrecision(12)));
    }
    return ticks;
  }

  function logTicks(low, high, count) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    if (last - first < 2) {
      const ticks = [];
      for (let e = first - 1; e <= last; e++) {
        for (const n of [1, 2, 5]) {
          const tick = n * 10 ** e;
          if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(Number(tick.toPrecision(6)));
        }
      }
      if (ticks.length > 1) return ticks;
      return linearTicks(low, high, count, false);
    }
    const step = Math.max(1, Math.ceil((last - first) / count));
    const ticks = [];
    for (let e = last; e >= first; e -= step) ticks.unshift(10 ** e);
    return ticks;
  }

  function axis(options, values) {
    const good = values.filter((v) => Number.isFinite(v) && (!options.log || v > 0));
    let low = options.min ?? Math.min(...good), high = options.max ?? Math.max(...good);
    if (!good.length && options.min === undefined) [low, high] = options.log ? [0.1, 1] : [0, 1];
    if (options.log) {
      if (high / low < 2) [low, high] = [low / 1.5, high * 1.5];
    } else if (high - low < 1e-12) {
      [low, high] = [low - 0.5, high + 0.5];
    }
    return { low, high, log: Boolean(options.log) };
  }

  const MARKERS = {
    circle: (x, y, r) => `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    square: (x, y, r) => `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    triangle: (x, y, r) => `M${x},${y - 1.2 * r}l${1.15 * r},${2 * r}h${-2.3 * r}z`,
    diamond: (x, y, r) => `M${x},${y - 1.3 * r}l${1.3 * r},${1.3 * r}l${-1.3 * r},${1.3 * r}l${-1.3 * r},${-1.3 * r}z`,
  };
  const MARKER_NAMES = Object.keys(MARKERS);

  /** Return the path of the marker of the n-th run: a second sign beside the colour. */
  const marker = (index, x, y, r) => MARKERS[MARKER_NAMES[index % MARKER_NAMES.length]](x, y, r);

  let measuring = null, family = "";
  /** Return the width in pixels of a text in the font of the page; bold for names. */
  function textWidth(text, size = 12, weight = 400) {
    measuring = measuring || document.createElement("canvas").getContext("2d");
    family = family || getComputedStyle(document.body).fontFamily;
    measuring.font = `${weight} ${size}px ${family}`;
    return measuring.measureText(text).width;
  }

  /** Return the text of a tick: a power of ten where it is far from 1. */
  function tickText(value) {
    const exponent = Math.log10(Math.abs(value));
    if (value > 0 && Math.abs(exponent) >= 4 && Math.abs(exponent - Math.round(exponent)) < 1e-9) return `10${raised(Math.round(exponent))}`;
    return Math.abs(value) >= 1e4 ? value.toLocaleString("en") : number(value);
  }

  /**
   * Draw a line chart into `holder`, again whenever its width changes, and return the chart.
   *
   * options: {
   *   title: what the chart shows, for screen readers,
   *   series: [{name, points: [[x, y], ...], index (of the run: colour and marker), dash, dots,
   *             faint, ends (false: no label at the end)}],
   *   x, y: {label, log, min, max, integer, format},
   *   rules: [{y, text}] horizontal lines, uprights: [{x, text}] vertical lines,
   *   marks: [{x, y, text, index}] points with a name,
   *   height, read(x) -> text of the cursor (default: the value of every series),
   * }
   */
  function lines(holder, options) {
    const frame = el("div", { class: "lines-frame" });
    const readout = el("p", { class: "chart-values", "aria-live": "polite" });
    holder.append(frame, readout);
    let width = 0;
    const chart = { draw, options, readout, frame };

    function draw() {
      const measured = Math.floor(frame.getBoundingClientRect().width);
      width = measured > 50 ? measured : 640;
      frame.replaceChildren(drawing(options, width, readout));
    }

    draw();
    if (typeof ResizeObserver !== "undefined") {
      new ResizeObserver(() => {
        const now = Math.floor(frame.getBoundingClientRect().width);
        if (now > 50 && now !== width) draw();
      }).observe(frame);
    }
    return chart;
  }

  function drawing(options, width, readout) {
    const series = options.series, narrow = width < 560;
    const height = options.height || (narrow ? 260 : 320);
    const points = series.flatMap((s) => s.points);
    const xAxis = axis(options.x, points.map((p) => p[0]));
    const yAxis = axis(options.y, points.map((p) => p[1]).concat((options.rules || []).map((r) => r.y)));
    const yFormat = options.y.format || number, yTick = options.y.format || tickText, xFormat = options.x.format || ((x) => (Math.abs(x) >= 1e4 ? x.toLocaleString("en") : number(x)));
    const yTicks = options.y.ticks || (yAxis.log ? logTicks(yAxis.low, yAxis.high, 6) : linearTicks(yAxis.low, yAxis.high, 5, options.y.integer));
    const labelled = series.filter((s) => s.name && s.ends !== false && s.points.length);
    const atEnds = !narrow && labelled.length > 0;
    const left = 14 + Math.max(...yTicks.map((tick) => textWidth(yTick(tick))), 10);
    const right = atEnds ? 16 + Math.min(210, Math.max(...labelled.map((s) => textWidth(s.name, 12, 600)))) : 12;
    const top = 22, bottom = 40;
    const lastTick = textWidth(xFormat(xAxis.high)) / 2 + 2;
    const inner = { w: Math.max(60, width - left - Math.max(right, lastTick)), h: height - top - bottom };
    const place = (a, v, from, size) => {
      const share = a.log ? Math.log(v / a.low) / Math.log(a.high / a.low) : (v - a.low) / (a.high - a.low);
      return from + share * size;
    };
    const X = (v) => place(xAxis, v, left, inner.w);
    const Y = (v) => place(yAxis, v, top + inner.h, -inner.h);
    const inside = (v) => (yAxis.log ? v > 0 : true) && Number.isFinite(v);
    const xTicks = xAxis.log ? logTicks(xAxis.low, xAxis.high, inner.w / 70) : linearTicks(xAxis.low, xAxis.high, Math.max(2, Math.floor(inner.w / 80)), options.x.integer);

    const root = svg("svg", {
      class: "lines", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", tabindex: 0, "data-own-keys": true,
      "aria-label": options.title,
    });
    const clip = `clip-${Math.random().toString(36).slice(2)}`;
    root.append(svg("clipPath", { id: clip }, svg("rect", { x: left, y: top - 4, width: inner.w + 4, height: inner.h + 8 })));
    const grid = svg("g", { "aria-hidden": "true" });
    for (const tick of yTicks) {
      grid.append(
        svg("line", { class: "grid", x1: left, x2: left + inner.w, y1: Y(tick), y2: Y(tick) }),
        svg("text", { x: left - 6, y: Y(tick) + 4, "text-anchor": "end", class: "tick" }, yTick(tick)),
      );
    }
    for (const tick of xTicks) {
      // The name of the last mark would be cut at the edge.
      const edge = X(tick) > width - 16;
      grid.append(svg("text", { x: edge ? width - 1 : X(tick), y: top + inner.h + 17, "text-anchor": edge ? "end" : "middle", class: "tick" }, xFormat(tick)));
    }
    grid.append(
      svg("line", { class: "axis", x1: left, x2: left + inner.w, y1: top + inner.h, y2: top + inner.h }),
      svg("text", { x: left + inner.w / 2, y: height - 6, "text-anchor": "middle", class: "axis-name" }, options.x.label || ""),
      svg("text", { x: 2, y: 12, class: "axis-name" }, options.y.label || ""),
    );
    root.append(grid);
    for (const rule of options.rules || []) {
      root.append(
        svg("line", { class: "rule", x1: left, x2: left + inner.w, y1: Y(rule.y), y2: Y(rule.y) }),
        svg("text", { class: "rule-name", x: left + inner.w - 2, y: Y(rule.y) - 5, "text-anchor": "end" }, rule.text),
      );
    }
    for (const upright of options.uprights || []) {
      const flip = X(upright.x) > left + inner.w * 0.6;
      root.append(
        svg("line", { class: "rule", x1: X(upright.x), x2: X(upright.x), y1: top, y2: top + inner.h }),
        svg("text", { class: "rule-name", x: X(upright.x) + (flip ? -5 : 5), y: top + 11, "text-anchor": flip ? "end" : "start" }, upright.text),
      );
    }

    const drawn = svg("g", { "clip-path": `url(#${clip})` });
    for (const one of series) {
      let path = "", open = false;
      for (const [x, y] of one.points) {
        if (inside(y)) {
          path += `${open ? "L" : "M"}${X(x).toFixed(1)},${Y(y).toFixed(1)}`;
          open = true;
        } else open = false;
      }
      const ink = one.faint ? "var(--faint)" : colour.series(one.index || 0);
      const kind = `${one.dash ? " dash" : ""}${one.faint ? " pale" : ""}`;
      if (path) drawn.append(svg("path", { class: `line${kind}`, d: path, stroke: ink, "data-series": one.name }));
      if (one.dots) {
        for (const [x, y] of one.points) {
          if (!inside(y)) continue;
          drawn.append(svg("path", { class: `dot${kind}`, fill: ink, d: marker(one.index || 0, X(x), Y(y), one.dots === true ? 3 : one.dots), "data-x": x, "data-y": y }));
        }
      }
    }
    root.append(drawn);

    if (atEnds) {
      const ends = labelled.map((one) => {
        const last = [...one.points].reverse().find((p) => inside(p[1]));
        return last ? { one, y: Math.min(top + inner.h, Math.max(top + 4, Y(last[1]))) } : null;
      }).filter(Boolean).sort((a, b) => a.y - b.y);
      spread(ends, 15, top + 4, top + inner.h);
      for (const { one, y } of ends) {
        root.append(svg("text", { class: `series-name${one.faint ? " pale" : ""}`, style: { fill: one.faint ? "var(--faint)" : colour.series(one.index || 0) }, x: left + inner.w + 8, y: y + 4 }, shortened(one.name, 200, 12, 600)));
      }
    }
    // Names of marks: above or below the point, moved until no two cover one another.
    const boxes = (options.marks || []).filter((mark) => inside(mark.y)).map((mark) => ({ x: X(mark.x) - 8, w: 16, y: Y(mark.y) + 5 }));
    for (const rule of options.rules || []) boxes.push({ x: left + inner.w - textWidth(rule.text), w: textWidth(rule.text), y: Y(rule.y) - 5 });
    for (const mark of options.marks || []) {
      if (!inside(mark.y)) continue;
      const x = X(mark.x), y = Y(mark.y), wide = textWidth(mark.text, 12, 600) + 4;
      root.append(svg("path", { class: "point", stroke: colour.series(mark.index || 0), d: marker(mark.index || 0, x, y, 5), "data-x": mark.x, "data-y": mark.y }));
      const from = Math.min(Math.max(left, x + 8), left + inner.w + (atEnds ? right : 0) - wide);
      let at = y - 10;
      const hits = () => boxes.some((b) => b.x < from + wide && from < b.x + b.w && Math.abs(b.y - at) < 15);
      for (const shift of [-12, 20, -28, 36, -44, 52, -60, 68, -76, 84]) {
        at = y + shift;
        if (at > top + 8 && at < top + inner.h - 2 && !hits()) break;
      }
      boxes.push({ x: from, w: wide, y: at });
      root.append(svg("text", { class: "point-name", style: { fill: colour.series(mark.index || 0) }, x: from, y: at }, mark.text));
    }

    const cursor = svg("line", { class: "cursor", y1: top, y2: top + inner.h, visibility: "hidden" });
    root.append(cursor);
    const stops = [...new Set(points.map((p) => p[0]))].sort((a, b) => a - b);
    let at = -1;
    function show(index) {
      if (!stops.length) return;
      at = Math.max(0, Math.min(stops.length - 1, index));
      const x = stops[at];
      cursor.setAttribute("x1", X(x));
      cursor.setAttribute("x2", X(x));
      cursor.setAttribute("visibility", "visible");
      const values = series.filter((s) => s.name).map((s) => {
        const point = s.points.find((p) => p[0] === x);
        return point ? `${s.name} ${yFormat(point[1])}` : null;
      }).filter(Boolean);
      readout.textContent = options.read ? options.read(x) : `${options.x.label} ${xFormat(x)}: ${values.join(" · ")}`;
    }
    const point = (event) => {
      const box = root.getBoundingClientRect(), px = ((event.clientX - box.left) / box.width) * width;
      let best = 0;
      stops.forEach((x, i) => {
        if (Math.abs(X(x) - px) < Math.abs(X(stops[best]) - px)) best = i;
      });
      show(best);
    };
    root.addEventListener("pointermove", point);
    // A finger that taps does not move.
    root.addEventListener("pointerdown", point);
    root.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      show(at < 0 ? (step > 0 ? 0 : stops.length - 1) : at + step);
    });
    return root;
  }

  /** Move places on a line apart, until neighbours are `gap` apart, within low ... high. */
  function spread(items, gap, low, high) {
    for (let i = 1; i < items.length; i++) items[i].y = Math.max(items[i].y, items[i - 1].y + gap);
    for (let i = items.length - 1; i >= 0; i--) {
      const limit = i === items.length - 1 ? high : items[i + 1].y - gap;
      items[i].y = Math.max(low + i * 2, Math.min(items[i].y, limit));
    }
  }

  /** Return a text that is cut with "…" at a width in pixels. */
  function shortened(text, width, size = 12, weight = 400) {
    if (textWidth(text, size, weight) <= width) return text;
    const characters = [...text];
    while (characters.length > 1 && textWidth(`${characters.join("")}…`, size, weight) > width) characters.pop();
    return `${characters.join("")}…`;
  }

  /** Return a legend: a line or a marker for each series, with its name. */
  function legend(items) {
    return el("ul", { class: "legend" }, items.map((item) => el("li", {}, svg("svg", { width: 26, height: 12, "aria-hidden": "true" },
      item.dots === "only" ? null : svg("path", { class: `line${item.dash ? " dash" : ""}`, stroke: colour.series(item.index), d: "M1,6H25" }),
      item.dots ? svg("path", { fill: colour.series(item.index), d: marker(item.index, 13, 6, 3.5) }) : null), ` ${item.name}`)));
  }

  /** Return a token as it is shown, with the token that the run reads in its place if it is unknown. */
  function nameOf(tools, run, place) {
    const frame = tools.runs[run], name = tools.brief(tools.tokenText(run, place));
    return frame.unknown.includes(place) ? `${name} (${frame.unk})` : name;
  }

  /** Return the place of the selected token in a run; the last token if the end is selected. */
  const placeOf = (tools, run) => Math.max(0, Math.min(tools.selected(run), tools.length(run) - 1));

  /**
   * Select a token of a run for every view. A token that shares its character with the token before
   * can be selected only in its own run, which then becomes the selected run.
   */
  function choose(tools, run, token) {
    const spans = tools.array(tools.runs[run].spans), shares = token > 0 && spans[2 * token] === spans[2 * token - 2];
    tools.select(run === tools.state.run ? { token } : shares ? { run, token } : { character: spans[2 * token] });
  }

  /**
   * Return buttons to the token before and after, around the token in its text. A click selects the
   * token for every view.
   */
  function stepper(tools, run, place, ...more) {
    const { el, t } = tools, spans = tools.array(tools.runs[run].spans);
    const from = spans[2 * place], to = spans[2 * place + 1], go = (token) => () => choose(tools, run, token);
    return el("div", { class: "stepper" },
      el("button", { type: "button", class: "back", "aria-label": t("charts.back"), title: t("charts.back"), disabled: place === 0, onclick: go(Math.max(0, place - 1)) }, "‹"),
      el("span", { class: "in-text", dir: "auto" }, from > 28 ? "…" : "", plain(tools.slice(Math.max(0, from - 28), from)), el("mark", {}, tools.brief(tools.tokenText(run, place))), plain(tools.slice(to, to + 12)), tools.slice(to + 12, to + 13) ? "…" : ""),
      el("button", { type: "button", class: "on", "aria-label": t("charts.on"), title: t("charts.on"), disabled: place >= tools.length(run) - 1, onclick: go(Math.min(tools.length(run) - 1, place + 1)) }, "›"), more);
  }
  const plain = (text) => text.replace(/\s*\n\s*/g, " ⏎ ");

  /** Return a `render` that draws into an element of its own, which `draw` may empty and fill again. */
  function inPlace(draw) {
    return (section, data, tools) => {
      const place = el("div", { class: "view" });
      section.append(place);
      draw(place, data, tools);
    };
  }

  jaxlm.charts = { number, percent, lines, marker, legend, textWidth, shortened, spread, inPlace, nameOf, placeOf, choose, stepper };
})();
