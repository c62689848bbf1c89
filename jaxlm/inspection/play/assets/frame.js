"use strict";
// What both tabs need: elements, texts in two languages, numbers, colours, tables.
// No text of a corpus is ever parsed as HTML: elements get it as textContent.

const Frame = (() => {
  const content = JSON.parse(document.getElementById("data").textContent);
  const state = { lang: content.lang };
  const dark = matchMedia("(prefers-color-scheme: dark)");

  /** el("p", {class: "note", onclick: f}, "text", otherElement). null is left out. */
  function el(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "style") Object.assign(element.style, value);
      else element.setAttribute(name, value === true ? "" : String(value));
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined) element.append(child);
    }
    return element;
  }

  /** The text of a key in the page's language, {name} filled in. */
  function t(key, args = {}) {
    const entry = content.texts[key];
    const text = entry ? entry[state.lang] || entry.en : key;
    return text.replace(/\{(\w+)\}/gu, (whole, name) => (name in args ? String(args[name]) : whole));
  }

  /** A text that was written in both languages, or one text for both. */
  const said = (both) => (typeof both === "string" ? both : both[state.lang] || both.en);

  /** A number with `digits` after the point. */
  function number(x, digits = 2) {
    if (x === null || x === undefined || Number.isNaN(x)) return "–";
    if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
    return x.toFixed(digits).replace("-", "−");
  }

  /** A probability as people read it: 12.3%, 0.04%, <0.01%. */
  function percent(p) {
    if (p > 0 && p < 1e-4) return "<0.01%";
    return `${(100 * p).toFixed(p < 0.01 ? 2 : 1)}%`;
  }

  // Each scale gets steadily darker (on a dark page: lighter), so that it can be read in grey too.
  const STOPS = {
    sequential: {
      light: [[255, 255, 255], [255, 237, 190], [253, 190, 120], [233, 122, 92], [181, 54, 100], [96, 15, 92]],
      dark: [[22, 24, 29], [66, 32, 74], [126, 40, 92], [190, 66, 84], [238, 128, 72], [255, 214, 120]],
    },
    diverging: {
      light: [[5, 48, 97], [33, 102, 172], [103, 169, 207], [209, 229, 240], [255, 255, 255], [253, 219, 199], [239, 138, 98], [178, 24, 43], [103, 0, 31]],
      dark: [[160, 205, 255], [96, 165, 230], [54, 112, 175], [36, 62, 96], [22, 24, 29], [92, 46, 34], [168, 74, 48], [226, 120, 78], [255, 190, 150]],
    },
  };
  // Okabe and Ito 2008: colours that colour-blind people can tell apart.
  const SERIES = { light: ["#0072b2", "#d55e00"], dark: ["#5ab4e8", "#ff8a3d"] };
  const mode = () => (dark.matches ? "dark" : "light");

  /** The colour at x in 0 ... 1 of a scale, as [red, green, blue]. */
  function colour(scale, x) {
    const stops = STOPS[scale][mode()];
    const place = Math.min(Math.max(Number.isFinite(x) ? x : 1, 0), 1) * (stops.length - 1);
    const index = Math.min(Math.floor(place), stops.length - 2);
    const share = place - index;
    return stops[index].map((value, channel) => Math.round(value + share * (stops[index + 1][channel] - value)));
  }

  /** Black or white, whichever can be read on a colour. */
  function ink([red, green, blue]) {
    const linear = [red, green, blue].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    return light > 0.18 ? "#000" : "#fff";
  }

  const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  /** Returns a canvas context whose units are CSS pixels, cleared. */
  function canvas(element, height) {
    const width = element.clientWidth || 300;
    const scale = window.devicePixelRatio || 1;
    element.width = Math.round(width * scale);
    element.height = Math.round(height * scale);
    element.style.height = `${height}px`;
    const context = element.getContext("2d");
    context.scale(scale, scale);
    return { context, width, height };
  }

  /** A button that shows a table below it, and copies the table. make() returns {headers, rows}. */
  function data(label, make) {
    const place = el("div", { class: "behind", hidden: true });
    const button = el("button", { type: "button", class: "show-data", "aria-expanded": "false", "aria-label": `${t("data.label")}: ${label}` }, t("data"));
    button.addEventListener("click", () => {
      place.hidden = !place.hidden;
      button.setAttribute("aria-expanded", String(!place.hidden));
      place.replaceChildren();
      if (place.hidden) return;
      const { headers, rows } = make();
      const status = el("span", { role: "status" });
      const copy = async () => {
        const lines = [headers, ...rows].map((row) => row.map((x) => String(x).replace(/[\t\n]/gu, " ")).join("\t"));
        try {
          await navigator.clipboard.writeText(`${lines.join("\n")}\n`);
          status.textContent = t("data.copied");
        } catch {
          status.textContent = t("data.copy.failed");
        }
      };
      const cell = (x) => el("td", { class: typeof x === "number" ? "number" : null }, typeof x === "number" && !Number.isInteger(x) ? number(x, 4) : String(x));
      place.append(
        el("p", {}, el("button", { type: "button", onclick: copy }, t("data.copy")), " ", status),
        el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("data.label") },
          el("table", {}, el("thead", {}, el("tr", {}, headers.map((header) => el("th", { scope: "col" }, header)))),
            el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell)))))),
      );
    });
    return { button, place };
  }

  return { content, state, dark, el, t, said, number, percent, colour, ink, css, variable, canvas, data, mode, series: (index) => SERIES[mode()][index] };
})();
