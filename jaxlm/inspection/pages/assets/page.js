"use strict";
// The frame of the page. Each view calls jaxlm.view(name, {render, update}) with the name that it has in
// views.py. render(section, data, tools) draws the view into an empty section. It is called again when the
// language or the colours change. update(state, changed) is called after tools.select(...).
// No text of a corpus is ever parsed as HTML: elements get it as textContent.
const jaxlm = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const content = JSON.parse(document.getElementById("data").textContent);
  const views = {};
  const state = {lang: content.lang, run: 0, character: 0, token: 0, paint: null};
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let drawing = 0;

  // ---- elements -------------------------------------------------------------------------------------
  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "style") Object.assign(element.style, value);
      else element.setAttribute(name, value === true ? "" : String(value));
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined) element.append(child instanceof Node ? child : String(child));
    }
    return element;
  }
  // el("p", {class: "note", onclick: f, style: {color: "red"}}, "text", otherElement)
  const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

  // ---- texts and numbers ----------------------------------------------------------------------------
  // t("surprise.bits", {bits: "3.2"}): the text of the key in the page's language, {bits} filled in.
  function t(key, args) {
    const entry = content.texts[key];
    const text = entry ? entry[state.lang] || entry.en : key;
    return text.replace(/\{(\w+)\}/g, (whole, name) => (args && name in args ? String(args[name]) : whole));
  }
  // said({en: ..., zh: ...}): a text that Python wrote in both languages.
  const said = (both) => (typeof both === "string" ? both : both[state.lang] || both.en);
  // number(0.1234): three significant digits, or `digits` after the point. A missing number is a dash.
  function number(x, digits) {
    if (x === null || x === undefined || Number.isNaN(x)) return "–";
    if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
    let text;
    if (digits !== undefined) text = x.toFixed(digits);
    else if (Number.isInteger(x)) text = String(x);
    else if (Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3) text = x.toExponential(1);
    else text = Number(x.toPrecision(3)).toString();
    return text.replace(/-/g, "−");
  }
  // The text of a token as it can be seen: a line break and blanks have a sign of their own.
  function visible(token) {
    const shown = token.replace(/^\p{M}/u, "◌$&").replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ +| +$/g, (s) => "␣".repeat(s.length))
      .replace(/[\u0000-\u001f\u007f]/g, (c) => (c === "\u007f" ? "␡" : String.fromCharCode(0x2400 + c.charCodeAt(0))));
    return shown === "" ? "∅" : shown;
  }
  // The text of a token in a sentence or a table: of a very long one, its beginning and its end.
  function brief(token) {
    const shown = Array.from(visible(token));
    return shown.length > 48 ? `${shown.slice(0, 32).join("")}…${shown.slice(-12).join("")}` : shown.join("");
  }
  const codes = Array.from(content.text);
  // slice(from, to): the text between two character offsets of Python (code points).
  const slice = (from, to) => codes.slice(from, to).join("");

  // ---- arrays ---------------------------------------------------------------------------------------
  const unpacked = new WeakMap();
  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  // array(packed): a typed array of the numbers, with the property `shape`.
  function array(packed) {
    if (unpacked.has(packed)) return unpacked.get(packed);
    const raw = atob(packed.data), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    const kinds = {float32: Float32Array, int32: Int32Array, float16: Uint16Array, uint16: Uint16Array, uint8: Uint8Array};
    let values = new kinds[packed.dtype](bytes.buffer);
    if (packed.dtype === "float16") values = Float32Array.from(values, half);
    else if ("step" in packed) {
      // Fixed point: one low and step for all, or one for each column.
      const columns = Array.isArray(packed.low) ? packed.low.length : 0, fixed = values;
      values = columns ? new Float32Array(fixed.length) : Float64Array.from(fixed, (q) => packed.low + packed.step * q);
      for (let i = 0, k = 0; columns && i < fixed.length; i++, k = k + 1 === columns ? 0 : k + 1) values[i] = packed.low[k] + packed.step[k] * fixed[i];
    }
    values.shape = packed.shape;
    unpacked.set(packed, values);
    return values;
  }

  // value(packed, index): a single number of an array, without decoding the others.
  function value(packed, index) {
    if (unpacked.has(packed)) return unpacked.get(packed)[index];
    const size = {float32: 4, int32: 4, float16: 2, uint16: 2, uint8: 1}[packed.dtype], from = index * size, group = Math.floor(from / 3);
    const raw = atob(packed.data.slice(4 * group, 4 * (Math.floor((from + size - 1) / 3) + 1))), offset = from - 3 * group;
    const one = {...packed, data: btoa(raw.slice(offset, offset + size)), shape: [1]};
    if (Array.isArray(packed.low)) {
      const column = index % packed.low.length;
      one.low = packed.low[column]; one.step = packed.step[column];
      return Math.fround(array(one)[0]);
    }
    return array(one)[0];
  }

  // ---- colours --------------------------------------------------------------------------------------
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
  // The colours of runs and lines: Okabe and Ito 2008, which colour-blind people can tell apart.
  const SERIES = {
    light: ["#0072b2", "#d55e00", "#007a5a", "#b0528a", "#8a6d00", "#3a8fc4", "#555555", "#000000"],
    dark: ["#5ab4e8", "#ff8a3d", "#2fc79b", "#e493c0", "#e8cf3f", "#9cd3f5", "#b5b5b5", "#ffffff"],
  };
  const mode = () => (dark.matches && !printing ? "dark" : "light");
  let printing = false;
  function mix(stops, x) {
    const place = Math.min(Math.max(x, 0), 1) * (stops.length - 1), index = Math.min(Math.floor(place), stops.length - 2);
    return stops[index].map((low, k) => Math.round(low + (place - index) * (stops[index + 1][k] - low)));
  }
  const css = (rgb) => `rgb(${rgb.join(",")})`;
  const ink = (rgb) => (0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 140 ? "#111" : "#fff");
  const colour = {
    sequentialRGB: (x) => mix(STOPS.sequential[mode()], Number.isFinite(x) ? x : 0),
    divergingRGB: (x) => mix(STOPS.diverging[mode()], Number.isFinite(x) ? (x + 1) / 2 : 0.5),
    sequential: (x) => css(colour.sequentialRGB(x)), // x from 0 to 1
    diverging: (x) => css(colour.divergingRGB(x)), // x from -1 to 1; white (the page's ground) at 0
    ink, // ink(rgb): black or white, whichever is read better on the colour
    series: (index) => SERIES[mode()][index % SERIES[mode()].length], // the colour of run or line `index`
    dark: () => mode() === "dark",
  };

  // ---- the text, token by token ---------------------------------------------------------------------
  function tokenText(run, index) {
    const frame = content.runs[run], spans = array(frame.spans);
    return index in frame.names ? frame.names[index] : slice(spans[2 * index], spans[2 * index + 1]);
  }
  // drawTokens(run, prefix, role): {tokens, pieces}: an element for each token of a run, with the id
  // `prefix-index` and a role, and the whole text with them.
  function drawTokens(run, prefix, role) {
    const frame = content.runs[run], spans = array(frame.spans), count = spans.length / 2;
    const unknown = new Set(frame.unknown), pieces = document.createDocumentFragment(), tokens = [];
    let end = 0, skipped = 0;
    // The text between two tokens; what the model does not read is marked.
    function between(from, to) {
      for (; skipped < frame.skipped.length && frame.skipped[skipped][0] < to; skipped++) {
        const [first, last] = frame.skipped[skipped], text = slice(first, last);
        if (first > from) pieces.append(slice(from, first));
        pieces.append(el("span", {class: "left-out unknown", role, "data-skipped": skipped}, /\s|[\u0000-\u001f\u007f]/.test(text) ? visible(text) : text));
        from = last;
      }
      if (to > from) pieces.append(slice(from, to));
    }
    for (let index = 0; index < count; index++) {
      const first = spans[2 * index], last = spans[2 * index + 1], named = index in frame.names;
      if (first > end) between(end, first);
      const text = tokenText(run, index), breaks = /[\n\r]/.test(text);
      const span = document.createElement("span");
      span.className = "token" + (unknown.has(index) ? " unknown" : "") + (named ? " part" : "");
      span.id = `${prefix}-${index}`;
      span.dataset.token = index;
      if (role) span.setAttribute("role", role);
      span.textContent = breaks ? "⏎" : named ? text : /[\u0000-\u0008\u000b-\u001f\u007f]/.test(text) ? visible(text) : text;
      pieces.append(span);
      if (breaks) pieces.append("\n");
      tokens.push(span);
      end = Math.max(end, last);
    }
    between(end, Infinity);
    return {tokens, pieces};
  }
  // paintTokens(tokens, colours, colourOf): gives each token the colour colourOf(index), red, green and blue
  // or null. `colours` holds what they have, so that only changes are drawn.
  function paintTokens(tokens, colours, colourOf) {
    for (let index = 0; index < tokens.length; index++) {
      const rgb = colourOf(index), text = rgb ? `rgb(${rgb})` : "";
      if (colours[index] === text) continue;
      colours[index] = text;
      tokens[index].style.backgroundColor = text;
      tokens[index].style.color = rgb ? colour.ink(rgb) : "";
    }
  }
  // reveal(box, span, top): scrolls the box, never the page, until the token is seen: with `top`, in its
  // second line in any case.
  function reveal(box, span, top) {
    const place = span.offsetTop - box.offsetTop;
    if (top) box.scrollTop = place - 2 * span.offsetHeight;
    else if (place < box.scrollTop || place + span.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = place - box.clientHeight / 2;
  }
  // A bar with the colours of a scale, and the numbers below the bar of a signed one.
  function scaleBar(signed) {
    const steps = 40, bar = el("div", {class: "scale", "aria-hidden": "true"});
    for (let k = 0; k < steps; k++) bar.append(el("i", {style: {background: signed ? colour.diverging((2 * k) / (steps - 1) - 1) : colour.sequential(k / (steps - 1))}}));
    return bar;
  }
  const scaleEnds = (limit) => el("div", {class: "ends"}, [-limit, 0, limit].map((x) => el("span", {}, x ? number(x, 2) : "0")));

  // ---- tables and figures ---------------------------------------------------------------------------
  const SHOWN = 200;
  const cell = (x) => (typeof x === "number" ? number(x) : x === null || x === undefined ? "" : visible(String(x)));
  // table(headers, rows): an element with the table and a button that copies it as TSV, all digits.
  function table(headers, rows) {
    const status = el("span", {class: "status", role: "status"});
    const plain = (x) => (x === null || x === undefined ? "" : String(x).replace(/[\t\n\r]/g, visible));
    async function copy() {
      const tsv = [headers, ...rows].map((row) => row.map(plain).join("\t")).join("\n") + "\n";
      try {
        await navigator.clipboard.writeText(tsv);
        status.textContent = t("page.copied");
      } catch {
        const area = el("textarea", {class: "offscreen", "aria-hidden": "true"});
        area.value = tsv;
        document.body.append(area);
        area.select();
        status.textContent = document.execCommand("copy") ? t("page.copied") : t("page.copy.failed");
        area.remove();
      }
    }
    const numeric = headers.map((_, k) => rows.length > 0 && typeof rows[0][k] === "number");
    const line = (row) => el("tr", {}, row.map((x, k) =>
      el("td", {class: numeric[k] ? "number" : null, "data-value": typeof x === "number" ? x : null, dir: numeric[k] ? null : "auto"}, cell(x))));
    return el("div", {class: "data"},
      el("p", {class: "tools"}, el("button", {type: "button", class: "copy", onclick: copy}, t("page.copy")), " ", status,
        rows.length > SHOWN ? el("span", {class: "note"}, " ", t("page.more_rows", {shown: SHOWN, rows: rows.length})) : null),
      el("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": t("page.data")},
        el("table", {}, el("thead", {}, el("tr", {}, headers.map((h, k) => el("th", {scope: "col", class: numeric[k] ? "number" : null}, h)))),
          el("tbody", {}, rows.slice(0, SHOWN).map(line)))));
  }
  // plainTable(headers, rows, footer): a table that is a part of the page.
  function plainTable(headers, rows, footer) {
    const numeric = headers.map((_, k) => rows.some((row) => typeof row[k] === "number"));
    const line = (tag) => (row) => el("tr", {}, row.map((x, k) => el(tag, {class: numeric[k] ? "number" : null, "data-value": typeof x === "number" ? x : null}, typeof x === "number" ? number(x) : x ?? "–")));
    return el("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": headers.join(", ")}, el("table", {}, el("thead", {}, el("tr", {}, headers.map((h, k) => el("th", {scope: "col", class: numeric[k] ? "number" : null}, h)))),
      el("tbody", {}, rows.map(line("td"))), footer ? el("tfoot", {}, [footer].map(line("th"))) : null));
  }
  // choice(label, [{value, text, title}], current, pick): buttons of which one is pressed, or a list if they
  // are many.
  function choice(label, options, current, pick) {
    if (options.length > 8) {
      const list = el("select", {onchange: () => pick(options[list.selectedIndex].value)}, options.map((o) => el("option", {selected: o.value === current}, o.text)));
      return el("label", {class: "choice"}, el("span", {class: "label"}, label), " ", list);
    }
    return el("div", {class: "choice", role: "group", "aria-label": label}, el("span", {class: "label"}, label), " ",
      options.map((o) => [el("button", {type: "button", title: o.title, "aria-pressed": String(o.value === current), "data-value": o.value, onclick: () => pick(o.value)}, o.text), " "]));
  }
  // figure({title, description, body, table: () => ({headers, rows}), note}): a chart with its text
  // alternative and its "data" button. `description` says in a sentence what the chart shows.
  function figure(options) {
    const place = el("div", {class: "behind", hidden: true});
    const button = el("button", {type: "button", class: "show-data", "aria-expanded": "false", title: t("page.data.label"), "aria-label": `${t("page.data.label")}: ${options.title}`}, t("page.data"));
    button.addEventListener("click", () => {
      place.hidden = !place.hidden;
      button.setAttribute("aria-expanded", String(!place.hidden));
      place.replaceChildren();
      if (!place.hidden) {
        const made = options.table();
        place.append(table(made.headers, made.rows));
      }
    });
    return el("figure", {class: options.class, "aria-label": options.title},
      el("figcaption", {}, el("span", {class: "name"}, options.title), options.table ? button : null),
      options.description ? el("p", {class: "described"}, options.description) : null,
      options.body, options.note ? el("p", {class: "note"}, options.note) : null, place);
  }

  // ---- selection ------------------------------------------------------------------------------------
  // The position that all runs share is the character. at(run) is the token of that run that holds it, or
  // length(run), the place after the last token, at the end of the text.
  const spans = content.runs.map((run) => (run.spans ? array(run.spans) : null));
  function at(run, character = state.character) {
    const offsets = spans[run];
    if (!offsets) return 0;
    if (character >= codes.length) return offsets.length / 2;
    let low = 0, high = offsets.length / 2 - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (offsets[2 * middle] <= character) low = middle; else high = middle - 1;
    }
    // Where the run leaves out a character, it predicts the token after it.
    if (content.runs[run].skipped.some(([first, last]) => first <= character && character < last)) return offsets[2 * low] > character ? low : low + 1;
    // Tokens of bytes share the character: take the first of them.
    while (low > 0 && offsets[2 * low - 2] === offsets[2 * low] && offsets[2 * low - 1] === offsets[2 * low + 1]) low--;
    return low;
  }
  // selected(run): the token of a run at the selected place. Several tokens of bytes may share a character.
  const selected = (run) => (run === state.run ? state.token : at(run));
  const length = (run) => (spans[run] ? spans[run].length / 2 : 0);
  // select({token: 3}) or {character}, {run}, {lang}, {paint}, or anything else: changes `state` and tells
  // every view. `token` counts the tokens of `state.run`; it is length(run) after the last token.
  function select(patch) {
    const before = {...state};
    // The colours of a unit belong to the tokens of its run.
    if (patch.run !== undefined && patch.paint === undefined && state.paint && state.paint.run !== patch.run) patch = {...patch, paint: null};
    Object.assign(state, patch);
    if (patch.run !== undefined && patch.token === undefined) state.token = at(state.run);
    if (patch.token !== undefined && length(state.run)) {
      state.token = Math.min(Math.max(patch.token, 0), length(state.run));
      state.character = state.token === length(state.run) ? codes.length : spans[state.run][2 * state.token];
    } else if (patch.character !== undefined) state.token = at(state.run);
    const changed = new Set(Object.keys(state).filter((key) => state[key] !== before[key]));
    if (!changed.size) return;
    if (changed.has("lang")) { draw(); return; }
    for (const name of content.order) {
      const view = views[name];
      if (view && view.drawn && view.update) view.update(state, changed);
    }
  }
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented) return;
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key], target = event.target;
    if (!step || target.closest("input, select, textarea, [data-own-keys], .scroll")) return;
    event.preventDefault();
    select({token: state.token + step});
  });

  // ---- the page -------------------------------------------------------------------------------------
  const tools = {printing: () => printing, t, said, number, visible, brief, slice, el, svg, array, value, colour, tokenText, drawTokens, paintTokens, reveal, scaleBar, scaleEnds, table, plainTable, choice, figure, state, select, at, selected, length, runs: content.runs, page: content};

  function foot() {
    const rows = Object.entries(content.foot).filter(([, value]) => value);
    return el("footer", {}, el("dl", {}, el("dt", {}, t("page.runs")), el("dd", {}, content.runs.map((run) => run.name).join(", ")),
      rows.map(([name, value]) => [el("dt", {}, t(`page.${name}`)), el("dd", {}, name === "command" ? el("code", {}, value) : said(value))])),
      el("p", {class: "note keys"}, t("page.keys")));
  }
  function drawView(name, section) {
    const data = content.views[name], view = views[name];
    section.append(el("h2", {id: `h-${name}`}, t(`${name}.title`)));
    if (content.texts[`${name}.lead`]) section.append(el("p", {class: "lead"}, t(`${name}.lead`)));
    if (data.missing) { section.append(el("p", {class: "missing"}, said(data.missing))); return; }
    try {
      view.render(section, data, tools);
      view.drawn = true;
    } catch (error) {
      section.append(el("p", {class: "missing"}, t("page.failed", {why: error.message})));
    }
  }
  // The first view is drawn at once, each other one in a task of its own, so that no task is long.
  function draw(now) {
    const turn = ++drawing, root = document.getElementById("page"), scroll = scrollY, focused = document.activeElement && document.activeElement.id;
    root.style.minHeight = scroll ? `${root.offsetHeight}px` : "";
    document.documentElement.lang = state.lang === "zh" ? "zh-Hans" : state.lang;
    document.documentElement.dataset.ready = "false";
    const names = content.order.filter((name) => views[name] && content.views[name]);
    const sections = names.map((name) => el("section", {id: name, "aria-labelledby": `h-${name}`}));
    for (const name of names) views[name].drawn = false;
    document.title = said(content.title);
    root.replaceChildren(
      el("a", {class: "skip", href: "#main"}, t("page.skip")),
      el("header", {}, el("h1", {}, said(content.title)),
        el("button", {type: "button", id: "language", lang: state.lang === "zh" ? "en" : "zh", "aria-label": t("page.language.label"), onclick: () => select({lang: state.lang === "zh" ? "en" : "zh"})}, t("page.language"))),
      el("nav", {"aria-label": t("page.contents")}, el("ul", {}, names.map((name) => el("li", {}, el("a", {href: `#${name}`}, t(content.texts[`${name}.nav`] ? `${name}.nav` : `${name}.title`)))))),
      el("main", {id: "main"}, content.notes.map((note) => el("p", {class: "note about-text"}, said(note))), sections), foot());
    const next = (index) => {
      if (turn !== drawing) return;
      if (index === names.length) {
        root.style.minHeight = "";
        document.documentElement.dataset.ready = "true";
        return;
      }
      drawView(names[index], sections[index]);
      if (now === true) next(index + 1);
      else setTimeout(next, 0, index + 1);
    };
    if (focused && document.getElementById(focused)) document.getElementById(focused).focus({preventScroll: true});
    next(0);
    if (scroll) scrollTo(0, scroll);
  }
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", () => { if (dark.matches) { printing = true; draw(true); } });
  addEventListener("afterprint", () => { if (printing) { printing = false; draw(); } });

  return {
    view(name, object) { views[name] = object; },
    start() {
      if (content.runs.length && length(0)) {
        state.token = content.first;
        state.character = state.token >= length(0) ? codes.length : spans[0][2 * state.token];
      }
      draw();
    },
    tools,
  };
})();
