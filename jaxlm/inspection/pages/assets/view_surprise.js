"use strict";
// The text, coloured by surprise or by the value of a unit (state.paint, which the view "gates" sets:
// {run, values, limit, name: key or text}).
jaxlm.view("surprise", (() => {
  let data, tools, box, tokens, lead, readout, legend, marks, tip, choices, summary, drawnRun, colours;
  const bitsOf = (run) => tools.array(data.runs[run].surprisal);
  const step = (run, bits) => {
    if (Number.isNaN(bits)) return "none";
    const [low, high] = data.runs[run].limits;
    return bits < low ? 0 : bits < high ? 1 : 2;
  };
  const tokenText = (run, index) => tools.tokenText(run, index);

  // ---- the text ----
  function drawText() {
    const run = tools.state.run, drawn = tools.drawTokens(run, "token", "option"), {pieces} = drawn, count = drawn.tokens.length;
    tokens = drawn.tokens;
    const last = document.createElement("span");
    last.className = "token after";
    last.id = `token-${count}`;
    last.dataset.token = count;
    last.setAttribute("role", "option");
    last.setAttribute("aria-label", tools.t("surprise.end"));
    last.textContent = "▮";
    tokens.push(last);
    pieces.append(last);
    box.replaceChildren(pieces);
    drawnRun = run;
    colours = [];
  }
  function colourOf(index) {
    const paint = tools.state.paint, run = tools.state.run;
    if (paint) return index < paint.values.length ? tools.colour.divergingRGB(paint.values[index] / paint.limit) : null;
    const bits = bitsOf(run)[index];
    return Number.isNaN(bits) || bits === undefined ? null : tools.colour.sequentialRGB(bits / data.runs[run].limits[2]);
  }
  const paintText = () => tools.paintTokens(tokens, colours, colourOf);
  function describe(index) {
    const {state, t, number} = tools, run = state.run, numbers = data.runs[run];
    if (index >= tokens.length - 1) return t("surprise.token.end");
    const token = `“${tools.brief(tokenText(run, index))}”`, bits = bitsOf(run)[index];
    const paint = state.paint, painted = paint && number(paint.values[index], paint.other === undefined ? 3 : 2);
    const unit = !paint ? "" : ` · ${paint.other === undefined ? t("surprise.token.unit", {token: paintName(), value: painted}) : t("surprise.token.compared", {name: paintName(), value: painted})}`;
    if (Number.isNaN(bits)) return t(numbers.last_only ? "surprise.token.untaught" : "surprise.token.none", {token, run: tools.runs[run].label}) + unit;
    let text = t("surprise.token", {token, bits: number(bits, 2), step: t(`surprise.step.${step(run, bits)}`), p: number(2 ** -bits), rank: tools.array(numbers.rank)[index], all: numbers.vocabulary});
    if (new Set(tools.runs[run].unknown).has(index)) text += ` · ${t("surprise.step.unknown", {unk: tools.runs[run].unk})}`;
    return text + unit;
  }
  const skippedText = (run, index) => tools.slice(...tools.runs[run].skipped[index]);
  const describeSkipped = (index) => tools.t("surprise.skipped", {token: `“${tools.brief(skippedText(tools.state.run, index))}”`, run: tools.runs[tools.state.run].label});
  const paintName = () => tools.state.paint.name();

  // ---- selection ----
  function showSelected(scroll) {
    const index = tools.state.token;
    for (const span of box.querySelectorAll(".selected")) { span.classList.remove("selected"); span.removeAttribute("aria-selected"); }
    const span = tokens[index];
    span.classList.add("selected");
    span.setAttribute("aria-selected", "true");
    box.setAttribute("aria-activedescendant", span.id);
    const run = tools.state.run, bits = bitsOf(run)[index];
    readout.textContent = describe(index) + (Number.isFinite(bits) ? ` · ${tools.t("surprise.entropy", {entropy: tools.number(tools.array(data.runs[run].entropy)[index], 2)})}` : "");
    readout.dataset.token = index;
    readout.dataset.bits = bits === undefined ? "" : bits;
    // Only the box scrolls, never the page. In the next frame the layout is known without extra work.
    if (scroll) requestAnimationFrame(() => tools.reveal(box, span));
  }
  function hover(event) {
    const span = event.target.closest(".token, .left-out");
    if (!span || event.pointerType === "touch") { tip.hidden = true; return; }
    tip.textContent = span.dataset.skipped === undefined ? describe(Number(span.dataset.token)) : describeSkipped(Number(span.dataset.skipped));
    tip.hidden = false;
    const frame = box.parentElement.getBoundingClientRect(), at = span.getClientRects()[0];
    tip.style.left = `${Math.max(0, Math.min(at.left - frame.left, frame.width - tip.offsetWidth))}px`;
    tip.style.top = `${at.bottom - frame.top + 4}px`;
  }

  function click(event) {
    const span = event.target.closest(".token, .left-out");
    if (!span) return;
    if (span.dataset.skipped === undefined) { tools.select({token: Number(span.dataset.token)}); return; }
    const index = Number(span.dataset.skipped);
    tools.select({character: tools.runs[tools.state.run].skipped[index][0]});
    readout.textContent = describeSkipped(index);
  }
  // Home and End; and up and down change the unit that colours the text.
  function keys(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const move = {ArrowUp: -1, ArrowDown: 1}[event.key];
    if (event.key === "Home") tools.select({token: 0});
    else if (event.key === "End") tools.select({token: tokens.length - 1});
    else if (move && tools.state.paint && tools.state.moveUnit) tools.state.moveUnit(move);
    else return;
    event.preventDefault();
  }

  // ---- two runs compared ----
  // The bits of a run for each character: a token's bits are spread evenly over its characters and the
  // blanks before it. A character that the run does not read has none.
  function perCharacter(run) {
    const without = leftOut(run), spans = tools.array(tools.runs[run].spans), bits = bitsOf(run), begins = beginsOf(run), found = new Float64Array(spans.length ? spans[spans.length - 1] : 0);
    for (let k = 0; k < bits.length; k++) {
      let read = 0;
      for (let c = begins[k]; c < spans[2 * k + 1]; c++) read += !without.has(c);
      for (let c = begins[k]; c < spans[2 * k + 1]; c++) if (!without.has(c)) found[c] += bits[k] / read;
    }
    return found;
  }
  // Where each token begins, with the blanks before it. Tokens that are parts of one character begin at one place.
  function beginsOf(run) {
    const spans = tools.array(tools.runs[run].spans), found = new Int32Array(spans.length / 2);
    for (let k = 0, end = 0; k < found.length; k++) {
      found[k] = k && spans[2 * k] === spans[2 * k - 2] ? found[k - 1] : Math.min(end, spans[2 * k]);
      end = spans[2 * k + 1];
    }
    return found;
  }
  const leftOut = (run) => new Set(tools.runs[run].skipped.flatMap(([first, last]) => Array.from({length: last - first}, (_, k) => first + k)));
  // How many bits `other` needs more than `run` for each token of `run`; NaN where `other` does not read it.
  function compared(run, other) {
    const spans = tools.array(tools.runs[run].spans), own = bitsOf(run), bits = bitsOf(other), theirs = tools.array(tools.runs[other].spans), values = new Float32Array(own.length);
    const same = spans.length === theirs.length && spans.every((x, k) => x === theirs[k]), spread = same ? null : perCharacter(other), gone = leftOut(run), lost = leftOut(other);
    // The bits of a character are divided among the tokens that are parts of it.
    const begins = beginsOf(run), parts = new Float64Array(spans.length ? spans[spans.length - 1] : 0);
    for (let k = 0; k < own.length; k++) for (let c = begins[k]; c < spans[2 * k + 1]; c++) parts[c]++;
    for (let k = 0; k < own.length; k++) {
      let sum = same ? bits[k] : 0;
      if (!same) for (let c = begins[k]; c < spans[2 * k + 1]; c++) if (!gone.has(c)) sum += lost.has(c) ? NaN : c < spread.length ? spread[c] / parts[c] : 0;
      values[k] = Math.max(-99, Math.min(99, sum - own[k]));
    }
    return {run, other, values, limit: 6, name: () => tools.t("surprise.compared", {run: tools.runs[other].label})};
  }

  // ---- around the text ----
  function drawChoices() {
    const {state, t, el} = tools;
    choices.replaceChildren();
    if (tools.runs.length > 1) choices.append(tools.choice(t("surprise.run"), tools.runs.map((run, index) => ({value: index, text: run.label})), state.run, (run) => tools.select({run, paint: null})));
    const paint = state.paint, others = tools.runs.map((_, k) => k).filter((k) => k !== state.run);
    const colours_ = [{value: "bits", text: t("surprise.bits")}, ...others.map((k) => ({value: k, text: t("surprise.compared", {run: tools.runs[k].label})}))];
    if (paint && paint.other === undefined) colours_.push({value: "unit", text: paintName()});
    if (colours_.length > 1) choices.append(tools.choice(t("surprise.paint"), colours_, paint ? paint.other ?? "unit" : "bits", (value) => {
      if (value !== "unit") tools.select({paint: value === "bits" ? null : compared(state.run, value)});
    }));
    if (!paint) lead.textContent = t("surprise.intro");
    else if (paint.other === undefined) lead.textContent = t("surprise.intro.unit");
    else {
      const known = Array.from(paint.values).filter((x) => !Number.isNaN(x)), total = known.reduce((sum, x) => sum + x, 0);
      lead.textContent = t("surprise.intro.compared", {run: tools.runs[state.run].label, other: tools.runs[paint.other].label, better: known.filter((x) => x > 0).length, all: known.length, unit: t(`unit.${tools.runs[state.run].unit}`), bits: tools.number(Math.abs(total), 1), less: t(total >= 0 ? "surprise.fewer" : "surprise.more")});
    }
  }
  function drawLegend() {
    const {state, t, el} = tools, run = state.run;
    const bar = tools.scaleBar(Boolean(state.paint));
    const title = legend.closest("figure").querySelector(".name");
    title.textContent = state.paint ? paintName() : t("surprise.nav");
    if (state.paint) {
      legend.replaceChildren(bar, tools.scaleEnds(state.paint.limit));
      return;
    }
    const [low, high, top] = data.runs[run].limits;
    const names = [[low, t("surprise.below", {bits: low})], [high - low, t("surprise.between", {low, high})], [top - high, t("surprise.above", {bits: high})]];
    legend.replaceChildren(bar, el("div", {class: "steps"}, names.map(([width, range], k) => el("span", {style: {flexGrow: width}}, el("b", {}, t(`surprise.step.${k}`)), el("small", {}, range)))),
      el("p", {class: "note"}, t("surprise.legend"), tools.runs[run].unknown.length ? [" · ", el("span", {class: "token unknown"}, "abc"), ` ${t("surprise.step.unknown", {unk: tools.runs[run].unk})}`] : null,
        tools.runs[run].skipped.length ? [" · ", el("span", {class: "left-out unknown"}, "abc"), ` ${t("surprise.step.skipped")}`] : null));
  }
  function drawSummary() {
    const {state, t, el, number} = tools, run = state.run, bits = bitsOf(run), kinds = [0, 0, 0];
    let all = 0;
    for (const x of bits) if (!Number.isNaN(x)) { kinds[step(run, x)]++; all++; }
    const order = Array.from(bits.keys()).filter((k) => bits[k] >= data.runs[run].limits[0]).sort((a, b) => bits[b] - bits[a] || a - b).slice(0, 5);
    summary.replaceChildren(el("p", {class: "finding"}, t("surprise.summary", {run: tools.runs[run].label, expected: kinds[0], all, shocks: kinds[2], unit: t(`unit.${tools.runs[run].unit}`)})),
      order.length ? el("p", {class: "jumps"}, t("surprise.hardest"), " ", order.map((k) => [el("button", {type: "button", dir: "auto", onclick: () => tools.select({token: k})}, el("bdi", {}, tools.brief(tokenText(run, k))), ` ${number(bits[k], 1)}`), " "])) : "");
  }
  function totals() {
    const {t} = tools;
    return {
      headers: ["run", "tokens", "bits", "per_token", "per_character", "perplexity", "unknown"].map((key) => t(`surprise.head.${key}`)),
      rows: data.runs.map((run, k) => [tools.runs[k].label, run.predicted, run.bits, run.bits_per_token, run.bits_per_character, run.bits_per_token === null ? null : 2 ** run.bits_per_token, run.unknown]),
    };
  }
  function perToken() {
    const {t, state} = tools, run = state.run, bits = bitsOf(run), others = tools.runs.map((_, k) => k).filter((k) => k !== run);
    const lost = tools.runs.map((_, k) => leftOut(k)), entropy = tools.array(data.runs[run].entropy), rank = tools.array(data.runs[run].rank), spans = tools.array(tools.runs[run].spans);
    return {
      headers: ["#", t("surprise.head.token"), t("surprise.head.bits_of", {run: tools.runs[run].label}), t("surprise.head.entropy"), t("surprise.head.rank"), ...others.map((k) => t("surprise.head.bits_of", {run: tools.runs[k].label}))],
      rows: Array.from(bits, (x, k) => [k, tokenText(run, k), x, entropy[k], rank[k], ...others.map((other) => (lost[other].has(spans[2 * k]) ? null : bitsOf(other)[tools.at(other, spans[2 * k])]))]),
    };
  }
  function notes() {
    const {t, el} = tools, units = [...new Set(tools.runs.map((run) => run.unit))], sizes = [...new Set(data.runs.map((run) => run.vocabulary))];
    const listed = tools.runs.map((run) => `${run.label} (${t(`unit.${run.unit}`)})`).join(", ");
    const sized = tools.runs.map((run, k) => `${run.label} (${data.runs[k].vocabulary})`).join(", ");
    return [units.length > 1 ? el("p", {class: "note aligned"}, t("surprise.units", {units: listed})) : sizes.length > 1 ? el("p", {class: "note aligned"}, t("surprise.vocabularies", {units: sized})) : null,
      tools.runs.map((run, k) => {
        const words = [...new Set(run.skipped.map((_, index) => skippedText(k, index)))];
        const listed = words.slice(0, 8).map((word) => tools.brief(word)).join(" ") + (words.length > 8 ? " …" : "");
        return words.length ? el("p", {class: "note skipped"}, t("surprise.skipped.note", {run: run.label, count: run.skipped.length, unit: t(`unit.${run.unit}`), words: listed})) : null;
      }),
      data.runs.some((run) => run.last_only) ? el("p", {class: "note"}, t("surprise.last_only", {run: tools.runs.filter((_, k) => data.runs[k].last_only).map((run) => run.label).join(", ")})) : null,
      data.runs.map((run, k) => (run.impossible ? el("p", {class: "note"}, t("surprise.impossible", {run: tools.runs[k].label, count: run.impossible})) : null))];
  }

  return {
    render(section, given, given_tools) {
      data = given; tools = given_tools;
      const {el, t} = tools;
      lead = el("p", {class: "lead"});
      summary = el("div", {});
      choices = el("div", {class: "choices"});
      tip = el("div", {class: "tip", hidden: true, role: "presentation"});
      box = el("div", {class: "text", role: "listbox", tabindex: 0, "aria-label": t("surprise.text"),
        onclick: click,
        onkeydown: keys, onpointerover: hover, onpointerleave: () => { tip.hidden = true; }});
      readout = el("p", {class: "readout", role: "status", "aria-live": "polite", id: "surprise-readout"});
      legend = el("div", {class: "legend-scale"});
      section.append(lead, summary, choices,
        tools.figure({title: t("surprise.nav"), class: "surprise", body: el("div", {}, el("div", {class: "text-frame"}, box, tip), readout, legend), table: perToken}),
        tools.figure({title: t("surprise.table"), class: "totals", body: tools.plainTable(totals().headers, totals().rows), table: totals}),
        el("div", {}, notes()));
      drawChoices(); drawText(); paintText(); drawLegend(); drawSummary(); showSelected(true);
    },
    update(state, changed) {
      if (changed.has("run")) { drawText(); drawSummary(); }
      if (changed.has("run") || changed.has("paint")) { paintText(); drawChoices(); drawLegend(); }
      if (changed.has("run") || changed.has("paint") || changed.has("token")) showSelected(true);
    },
  };
})());
