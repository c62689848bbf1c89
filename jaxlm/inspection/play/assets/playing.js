"use strict";
// The tab "play": a text, and beside each other what every model makes of it.

const Playing = (() => {
  const { content, el, t, said, number, percent } = Frame;
  const COUNT = 10; // next tokens shown
  const SHOWN = 300; // tokens of the text shown in a card
  const MOST = 4000; // characters of the text
  const UNITS = 48; // units in the film
  const SLICE = 12; // milliseconds of reading between two pictures
  const AT_ONCE = 20; // tokens that are read before the next key
  const PICTURE = 150; // milliseconds between two pictures of a long text that is being read
  const PAUSE = 700; // milliseconds without a key, after which a screen reader is told
  const STEPS = [[2, "expected"], [6, "plausible"], [Infinity, "surprising"]];

  const shelves = content.shelves.map((spec) => ({
    spec,
    text: spec.text.slice(0, MOST),
    selected: null, // {place, reader, index}: an entry of a reader, and its place in the text; null for the end
    writer: null,
    model: spec.models.length - 1, // which model writes
    shown: spec.models.map(() => true),
    array: spec.models.map(() => null),
    cards: null,
    ready: null,
  }));
  const options = { temperature: 0.8, topK: null, topP: null, seed: 1, length: 200 };
  const view = { shelf: 0, area: null, status: null, cards: null, write: null };
  let timer = null;
  let drawn = 0;
  let telling = null;

  const current = () => shelves[view.shelf];

  /** Returns a promise of the models of a shelf, which are unpacked when they are first needed. */
  function prepare(shelf) {
    shelf.ready = shelf.ready || (async () => {
      const readers = [];
      for (const { spec, tokenizer } of shelf.spec.models) {
        const model = await Models.make(spec);
        readers.push(new Reading.Reader(model, Tokenizers.make(content.tokenizers[tokenizer])));
      }
      shelf.cards = readers.map((reader) => ({ reader, time: 0, tokens: 0 }));
    })();
    return shelf.ready;
  }

  // ---- the words for a model ------------------------------------------------------------------------
  function kind({ spec }) {
    if (spec.kind === "ngram") return `${spec.order}-gram`;
    return { nplm: "NPLM", recurrent: spec.cell }[spec.kind].replace(/^rnn|gru|lstm/u, (x) => x.toUpperCase());
  }

  function described(entry) {
    const { spec } = entry;
    const unit = t(`unit.${content.tokenizers[entry.tokenizer].kind}`);
    // The state before the text is no weight.
    const kept = Object.entries(spec.arrays).filter(([name]) => !name.startsWith("start/"));
    const weights = kept.reduce((sum, [, { shape }]) => sum + shape.reduce((a, b) => a * b, 1), 0);
    const args = { unit, weights: weights.toLocaleString("en"), order: spec.order - 1, steps: spec.n_step, hidden: spec.hidden_size, layers: (spec.layers || []).join(" + ") };
    return `${t(`about.${spec.kind}`, args)} ${t(`start.${spec.start.name}`)}`;
  }

  // ---- reading --------------------------------------------------------------------------------------
  /** Gives the text to every model, and draws what is read within a slice of time, and so on. */
  function take(text) {
    const shelf = current();
    shelf.text = text;
    if (!shelf.cards) return; // the models are being unpacked, and read the text afterwards
    for (const { reader } of shelf.cards) reader.take(text);
    clearTimeout(timer);
    // A browser may tell of a long text line by line; only its last line is read at once.
    if (shelf.cards.some(({ reader }) => reader.waiting.length > AT_ONCE)) {
      document.documentElement.dataset.left = "all";
      timer = setTimeout(pump, 0);
    } else pump();
  }

  function pump() {
    clearTimeout(timer);
    const shelf = current();
    const cards = shelf.cards.filter((_, index) => shelf.shown[index]);
    for (const card of cards) {
      const { reader } = card;
      const waiting = reader.waiting.length;
      if (!waiting) continue;
      const begin = performance.now();
      reader.advance(begin + SLICE / cards.length);
      card.time += performance.now() - begin;
      card.tokens += waiting - reader.waiting.length;
    }
    const left = Math.max(0, ...cards.map(({ reader }) => reader.waiting.length));
    view.status.textContent = left ? t("reading", { left }) : "";
    document.documentElement.dataset.left = String(left);
    if (left) timer = setTimeout(pump, 0);
    if (left && performance.now() - drawn < PICTURE) return;
    draw();
    drawn = performance.now();
    clearTimeout(telling);
    telling = setTimeout(tell, PAUSE);
  }

  /** Tells a screen reader what each model expects first. */
  function tell() {
    const shelf = current();
    if (!shelf.cards) return;
    const parts = shelf.cards.map(({ reader }, index) => {
      const rows = shelf.shown[index] ? reader.expected(1) : null;
      if (!rows || !rows.length) return null;
      return t("told", { model: kind(shelf.spec.models[index]), token: reader.tokenizer.text(rows[0].id), p: percent(rows[0].probability) });
    });
    view.told.textContent = parts.filter(Boolean).join(" ");
  }

  // ---- a card ---------------------------------------------------------------------------------------
  /** Returns the entry of a reader that is selected, or that covers the selected place; null for the end. */
  function at(reader, selected) {
    if (selected === null) return null;
    const { place } = selected;
    if (selected.reader === reader) return selected.index < reader.entries.length ? selected.index : null;
    const index = reader.entries.findIndex(({ token }) => token.start <= place && place < token.end);
    return index < 0 ? null : index;
  }

  function makeCard(shelf, index) {
    const card = shelf.cards[index];
    const entry = shelf.spec.models[index];
    const refs = {
      strip: el("p", { class: "strip", tabindex: 0, "aria-label": t("strip.label"), dir: "auto" }),
      line: el("p", { class: "line" }),
      unknown: el("p", { class: "warning" }),
      rows: el("ol", { class: "expected" }),
      heading: el("h4", {}),
      mean: el("p", { class: "note mean" }),
      inside: el("div", { class: "inside" }),
    };
    refs.strip.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") select(card.reader);
      if (!step) return;
      event.preventDefault();
      move(card.reader, step);
    });
    card.refs = refs;
    const table = Frame.data(t("strip.label"), () => ({
      headers: [t("table.token"), t("table.bits"), t("table.rank"), t("table.probability")],
      rows: card.reader.entries.map(({ token, bits, rank }) => [
        shown(card.reader, token), bits === null ? "–" : bits, rank === null ? "–" : rank, bits === null ? "–" : 2 ** -bits,
      ]),
    }));
    const notes = [entry.last_only ? t("last_only") : null];
    if (entry.spec.kind !== "ngram") notes.push(...insideControls(shelf, index, refs));
    card.element = el("article", { class: "card", "data-model": entry.label },
      el("header", {}, el("h3", {}, kind(entry)), el("span", { class: "note" }, entry.label)),
      el("p", { class: "note" }, described(entry)),
      notes[0] ? el("p", { class: "warning" }, notes[0]) : null,
      refs.strip, refs.line, refs.unknown, refs.heading, refs.rows,
      notes.slice(1), refs.inside,
      el("footer", {}, refs.mean, table.button), table.place);
    return card.element;
  }

  function shown(reader, token) {
    return token.unknown || token.id === null ? current().text.slice(token.start, token.end) : reader.tokenizer.text(token.id);
  }

  function drawCard(shelf, index) {
    const card = shelf.cards[index];
    const { reader, refs } = card;
    const chosen = at(reader, shelf.selected);
    drawStrip(shelf, card, chosen);
    const place = chosen === null ? reader.entries.length - 1 : chosen;
    const entry = reader.entries[place];
    refs.line.replaceChildren(...lineOf(reader, entry));
    drawUnknown(shelf, index);
    const rows = reader.expected(COUNT, chosen === null ? undefined : chosen);
    const typing = chosen === null && reader.typing;
    if (chosen !== null) refs.heading.textContent = t("expected.before", { token: shown(reader, entry.token) });
    else refs.heading.textContent = typing ? t("expected.typing", { typing: typing.text }) : t("expected");
    drawRows(shelf, card, rows, chosen);
    const { bits, characters, tokens } = reader.total();
    const speed = card.tokens ? t("speed", { ms: number(card.time / card.tokens, 2) }) : "";
    refs.mean.textContent = characters ? `${t("mean", { bits: number(bits / characters), tokens })} ${speed}` : speed;
    refs.mean.dataset.bits = characters ? String(bits / characters) : "";
    if (reader.model.ladder) drawLadder(card, chosen);
    else drawInside(shelf, index, chosen);
  }

  /** The sentence about the surprise of one token. */
  function lineOf(reader, entry) {
    if (!entry || entry.bits === null) return [t(entry ? "line.none" : "line.empty")];
    const token = el("b", { class: "token" }, shown(reader, entry.token));
    const step = STEPS.find(([limit]) => entry.bits < limit) || STEPS[2];
    const args = { bits: number(entry.bits), p: percent(2 ** -entry.bits), rank: entry.rank.toLocaleString("en"), size: reader.model.size.toLocaleString("en") };
    return [token, " ", el("span", { class: "step" }, t(`step.${step[1]}`)), el("span", { class: "bits", "data-bits": entry.bits }, t("line", args))];
  }

  function drawStrip(shelf, card, chosen) {
    const { reader, refs } = card;
    const from = Math.max(0, reader.entries.length - SHOWN);
    const spans = reader.entries.slice(from).map(({ token, bits }, offset) => {
      const background = Frame.colour("sequential", bits === null ? 0 : bits / 12);
      const text = reader.isPart(from + offset) ? reader.tokenizer.text(token.id) : shelf.text.slice(token.start, token.end);
      const span = el("span", {
        class: `t${token.unknown ? " unknown" : ""}${chosen === from + offset ? " chosen" : ""}`,
        "data-index": from + offset,
        "data-bits": bits,
        title: bits === null ? null : t("bits", { bits: number(bits) }),
        style: bits === null ? null : { background: Frame.css(background), color: Frame.ink(background) },
      }, text === "\n" ? "⏎\n" : text);
      return [span, reader.tokenizer.spec.kind === "words" ? " " : null];
    });
    refs.strip.replaceChildren(...spans.flat().filter(Boolean));
    if (from) refs.strip.prepend("… ");
    if (reader.typing) refs.strip.append(el("span", { class: "typing" }, reader.typing.text));
    if (!reader.entries.length && !reader.typing) refs.strip.append(el("span", { class: "note" }, t("strip.empty")));
    if (chosen === null) refs.strip.scrollTop = refs.strip.scrollHeight;
  }

  function drawUnknown(shelf, index) {
    const { reader, refs } = shelf.cards[index];
    const unknown = [...new Set(reader.entries.filter(({ token }) => token.unknown).map(({ token }) => shelf.text.slice(token.start, token.end)))];
    refs.unknown.hidden = !unknown.length;
    const words = unknown.slice(0, 5).join(" ") + (unknown.length > 5 ? " …" : "");
    const spec = shelf.spec.models[index];
    let key = "unknown";
    if (reader.tokenizer.unknown === null) key = "unknown.skipped";
    else if (spec.unknown_is_new) key = "unknown.new";
    refs.unknown.textContent = unknown.length ? t(key, { words }) : "";
  }

  function drawRows(shelf, card, rows, chosen) {
    const { reader, refs } = card;
    if (!rows || !rows.length) {
      const missing = reader.stateBefore(chosen === null ? undefined : chosen).missing || 1;
      refs.rows.replaceChildren(el("li", { class: "note" }, rows ? t("expected.nothing") : t("expected.short", { missing })));
      return;
    }
    const state = reader.stateBefore(chosen === null ? undefined : chosen);
    const orders = reader.model.orders ? reader.model.orders(state) : null;
    const truth = chosen === null ? null : reader.entries[chosen];
    const listed = rows.map((row, rank) => ({ ...row, rank: rank + 1 }));
    if (truth && truth.token.id !== null && truth.bits !== null && !rows.some(({ id }) => id === truth.token.id)) {
      listed.push({ id: truth.token.id, probability: 2 ** -truth.bits, rank: truth.rank });
    }
    const focused = [...refs.rows.children].findIndex((row) => row.contains(document.activeElement));
    refs.rows.replaceChildren(...listed.map(({ id, probability, rank }) => {
      const isTrue = truth !== null && truth.token.id === id;
      const text = reader.tokenizer.text(id);
      return el("li", { "data-id": id, "data-probability": probability, class: isTrue ? "true" : null },
        el("button", { type: "button", "aria-label": t("row.label", { token: text, p: percent(probability) }), onclick: () => write(shelf, reader, id, chosen) },
          el("span", { class: "token", dir: "auto" }, rank > COUNT ? `${rank}. ${text}` : text),
          el("span", { class: "bar" }, el("i", { style: { width: `${100 * probability}%` } })),
          el("span", { class: "p" }, percent(probability)),
          orders ? el("span", { class: "order" }, `${orders[id]}-gram`) : null));
    }));
    // Who writes by keyboard stays in the same row.
    if (focused >= 0) (refs.rows.children[focused] || refs.rows.firstChild).firstChild.focus();
  }

  /** Continues the text by a token, at its end or in the place of a chosen token. */
  function write(shelf, reader, id, chosen) {
    let [before, ids] = [shelf.text, [id]];
    if (chosen !== null) {
      const { start, ids: parts } = reader.before(chosen);
      [before, ids] = [before.slice(0, start), [...parts, id]];
    } else if (reader.typing) before = before.slice(0, reader.typing.start);
    change(reader.tokenizer.continued(before, ids));
  }

  /** Puts a text into the box, as if it had been typed. */
  function change(text) {
    const shelf = current();
    view.area.value = text.slice(0, MOST);
    view.area.scrollTop = view.area.scrollHeight;
    shelf.selected = null;
    take(view.area.value);
  }

  // ---- what is inside -------------------------------------------------------------------------------
  const arrayName = ({ layer, name }) => (layer && name !== "hidden" ? t("array.layer", { layer, name }) : t(`array.${name}`));

  function insideControls(shelf, index, refs) {
    const { reader } = shelf.cards[index];
    const arrays = reader.model.inside(reader.begin);
    const names = arrays.length ? arrays : [{ layer: 1, name: "hidden" }, { layer: 0, name: "features" }];
    if (shelf.array[index] === null) shelf.array[index] = names.map(({ name }) => name === "h" || name === "hidden").lastIndexOf(true);
    const select = el("select", {
      "aria-label": t("inside.choose"),
      onchange: (event) => {
        shelf.array[index] = Number(event.target.value);
        draw();
      },
    }, names.map((one, place) => el("option", { value: place, selected: place === shelf.array[index] }, arrayName(one))));
    refs.film = el("p", { class: "note" });
    refs.canvas = el("canvas", { class: "film", role: "img", "aria-label": t("inside.label") });
    const table = Frame.data(t("inside"), () => {
      const chosen = at(reader, shelf.selected);
      const state = reader.stateBefore(chosen === null ? undefined : chosen + 1);
      const all = reader.model.inside(state);
      return { headers: [t("table.array"), t("table.unit"), t("table.value")], rows: all.flatMap((one) => Array.from(one.values, (value, unit) => [arrayName(one), unit, value])) };
    });
    return [el("div", { class: "row" }, el("h4", {}, t("inside")), select, table.button), refs.canvas, refs.film, table.place];
  }

  /** The film: a column for each of the last tokens, a row for each unit. */
  function drawInside(shelf, index, chosen) {
    const { reader, refs } = shelf.cards[index];
    const height = 118;
    const { context, width } = Frame.canvas(refs.canvas, height);
    const column = reader.tokenizer.spec.kind === "words" ? 46 : 18;
    const end = chosen === null ? reader.entries.length : chosen + 1;
    const count = Math.min(end, Math.floor(width / column));
    const columns = reader.entries.slice(end - count, end).map((entry) => {
      const one = reader.model.inside(entry.state)[shelf.array[index]];
      return { entry, values: one ? one.values : null };
    });
    let most = 1;
    for (const { values } of columns) if (values) for (const value of values) most = Math.max(most, Math.abs(value));
    const size = Math.max(0, ...columns.map(({ values }) => (values ? values.length : 0)));
    refs.film.textContent = t(size > UNITS ? "inside.part" : "inside.note", { shown: UNITS, size });
    const bottom = height - 20;
    context.font = `13px ${getComputedStyle(document.body).fontFamily}`;
    context.textAlign = "center";
    columns.forEach(({ entry, values }, place) => {
      const left = place * column;
      const units = values ? Math.min(values.length, UNITS) : 0;
      for (let unit = 0; unit < units; unit++) {
        context.fillStyle = Frame.css(Frame.colour("diverging", 0.5 + values[unit] / most / 2));
        const top = (unit * bottom) / units;
        context.fillRect(left, top, column - 1, Math.max(bottom / units, 0.6));
      }
      context.fillStyle = Frame.variable("--ink");
      context.fillText(shown(reader, entry.token), left + column / 2, height - 5, column - 2);
    });
  }

  function drawLadder(card, chosen) {
    const { reader, refs } = card;
    const rungs = reader.model.ladder(reader.stateBefore(chosen === null ? undefined : chosen));
    const unit = t(`unit.${reader.tokenizer.spec.kind}`);
    const word = (id) => (id >= 0 && id < reader.model.size ? reader.tokenizer.text(id) : "⊢");
    const joined = (ids) => ids.map(word).join(reader.tokenizer.spec.kind === "words" ? " " : "");
    const best = rungs.findIndex(({ followers }) => followers > 0);
    refs.inside.replaceChildren(el("h4", {}, t("ladder")), el("ul", { class: "ladder" }, rungs.map(({ order, context, followers }, place) =>
      el("li", { class: place === best ? "answers" : followers ? null : "unseen", "data-order": order, "data-followers": followers },
        el("b", {}, `${order}-gram`), " ", el("span", { class: "token", dir: "auto" }, joined(context)), " ",
        el("span", { class: "note" }, ladderText(followers, unit))))));
  }

  function ladderText(followers, unit) {
    if (!followers) return t("ladder.unseen");
    return followers === 1 ? t("ladder.one") : t("ladder.seen", { followers, unit });
  }

  // ---- selection ------------------------------------------------------------------------------------
  /** Selects an entry of a reader; without an entry, the end of the text. */
  function select(reader, index = null) {
    current().selected = index === null ? null : { place: reader.entries[index].token.start, reader, index };
    draw();
  }

  function move(reader, step) {
    const shelf = current();
    const now = at(reader, shelf.selected);
    const next = (now === null ? reader.entries.length : now) + step;
    if (next < 0) return;
    select(reader, next < reader.entries.length ? next : null);
  }

  // ---- writing --------------------------------------------------------------------------------------
  function stop() {
    const shelf = current();
    if (shelf.writer) clearTimeout(shelf.writer.timer);
    shelf.writer = null;
    view.write.textContent = t("write");
    document.documentElement.dataset.writing = "false";
  }

  function start() {
    const shelf = current();
    if (!shelf.cards) return;
    const { reader } = shelf.cards[shelf.model];
    reader.advance(Infinity);
    // A word that is still being typed is taken as it stands.
    const text = reader.typing ? `${shelf.text} ` : shelf.text;
    if (reader.typing) {
      reader.take(text);
      reader.advance(Infinity);
    }
    shelf.writer = { left: options.length, writer: new Reading.Writer(reader, text, { ...options }), timer: null };
    view.write.textContent = t("stop");
    document.documentElement.dataset.writing = "true";
    const step = () => {
      const text_ = shelf.writer.left > 0 ? shelf.writer.writer.step() : null;
      if (text_ === null || text_.length > MOST) {
        stop();
        return;
      }
      shelf.writer.left -= 1;
      change(text_);
      shelf.writer.timer = setTimeout(step, 0);
    };
    step();
  }

  // ---- the tab --------------------------------------------------------------------------------------
  function field(label, input) {
    return el("label", {}, el("span", {}, label), input);
  }

  function slider(name, least, most, step, empty) {
    const output = el("output", {});
    const input = el("input", { type: "range", id: name, min: least, max: most, step, value: options[name] ?? most });
    const say = () => {
      const value = Number(input.value);
      options[name] = empty && value === Number(most) ? null : value;
      output.textContent = options[name] === null ? t("all") : number(value);
    };
    input.addEventListener("input", say);
    say();
    return el("label", {}, el("span", {}, t(name)), input, output);
  }

  function numeric(name, least, most, placeholder) {
    const input = el("input", { type: "number", id: name, min: least, max: most, step: 1, value: options[name] ?? "", placeholder, inputmode: "numeric" });
    input.addEventListener("input", () => {
      // The browser marks a value that is no whole number or out of range, and it is not used.
      if (input.value !== "" && input.checkValidity()) options[name] = Number(input.value);
      else if (name === "topK") options[name] = null;
    });
    return field(t(name), input);
  }

  function controls(shelf) {
    view.write = el("button", { type: "button", class: "main", id: "write", onclick: () => (shelf.writer ? stop() : start()) }, t("write"));
    const which = el("select", { id: "writer", onchange: (event) => { shelf.model = Number(event.target.value); } },
      shelf.spec.models.map((entry, index) => el("option", { value: index, selected: index === shelf.model }, `${kind(entry)} · ${entry.label}`)));
    const clear = el("button", { type: "button", id: "clear", onclick: () => { stop(); change(""); view.area.focus(); } }, t("clear"));
    return el("div", { class: "controls" },
      el("div", { class: "row" }, field(t("writer"), which), view.write, clear),
      el("details", {}, el("summary", {}, t("sampling")),
        el("div", { class: "row" }, slider("temperature", 0, 2, 0.05, false), numeric("topK", 1, 1000000, t("all")), slider("topP", 0.05, 1, 0.05, true), numeric("seed", 0, 4294967295), numeric("length", 1, MOST)),
        el("p", { class: "note" }, t("sampling.note"))));
  }

  function choices(shelf) {
    if (shelf.spec.models.length < 2) return null;
    return el("div", { class: "row chips", role: "group", "aria-label": t("models") }, shelf.spec.models.map((entry, index) =>
      el("button", {
        type: "button",
        "aria-pressed": String(shelf.shown[index]),
        onclick: (event) => {
          shelf.shown[index] = !shelf.shown[index];
          event.currentTarget.setAttribute("aria-pressed", String(shelf.shown[index]));
          if (!shelf.cards) return;
          layCards(shelf);
          pump();
        },
      }, `${kind(entry)} · ${entry.label}`)));
  }

  function layCards(shelf) {
    view.cards.replaceChildren(...shelf.cards.map(({ element }, index) => (shelf.shown[index] ? element : null)).filter(Boolean));
  }

  function draw() {
    const shelf = current();
    if (!shelf.cards || !view.cards.isConnected || !view.cards.clientWidth) return;
    shelf.cards.forEach((_, index) => {
      if (shelf.shown[index]) drawCard(shelf, index);
    });
  }

  function shelfButtons(render) {
    if (shelves.length < 2) return null;
    return el("div", { class: "row shelves", role: "group", "aria-label": t("shelves") }, shelves.map(({ spec }, index) =>
      el("button", { type: "button", "aria-pressed": String(index === view.shelf), onclick: () => { stop(); view.shelf = index; render(); } }, said(spec.title))));
  }

  /** Draws the tab into an element. */
  async function render(section) {
    const shelf = current();
    clearTimeout(timer);
    clearTimeout(telling);
    document.documentElement.dataset.left = "all";
    const again = () => render(section);
    view.area = el("textarea", { id: "text", rows: 3, maxlength: MOST, spellcheck: "false", autocapitalize: "off", autocomplete: "off", placeholder: t("text.placeholder"), "aria-describedby": "text-note", dir: "auto" });
    view.area.value = shelf.text;
    view.status = el("span", { class: "note", role: "status" });
    view.told = el("p", { class: "offscreen", role: "status" });
    view.cards = el("div", { class: "cards" });
    const typed = (event) => {
      // While a Chinese word is being composed, the box holds the letters of its sound.
      if (event.isComposing) return;
      if (shelf.writer) stop();
      shelf.selected = null;
      take(view.area.value);
    };
    view.area.addEventListener("input", typed);
    view.area.addEventListener("compositionend", () => typed({ isComposing: false }));
    view.cards.addEventListener("click", (event) => {
      const { index } = event.target.dataset;
      const card = shelf.cards.find(({ element }) => element.contains(event.target));
      if (index === undefined || !card) return;
      const was = shelf.selected;
      const again = was && was.reader === card.reader && was.index === Number(index);
      select(card.reader, again ? null : Number(index));
    });
    const legend = el("ul", { class: "legend" }, [[1, "expected"], [4, "plausible"], [9, "surprising"]].map(([bits, name]) => {
      const background = Frame.colour("sequential", bits / 12);
      return el("li", {}, el("span", { class: "t", style: { background: Frame.css(background), color: Frame.ink(background) } }, t(`step.${name}`)), " ", t(`legend.${name}`));
    }));
    section.replaceChildren(
      el("p", { class: "lead" }, t("play.lead")),
      ...[shelfButtons(again)].filter(Boolean),
      el("label", { for: "text", class: "name" }, t("text")), view.area,
      el("p", { class: "note", id: "text-note" }, t(shelfUnit(shelf)), " ", view.status),
      controls(shelf), ...[choices(shelf)].filter(Boolean), legend, view.cards, view.told,
      el("p", { class: "note" }, t(`dtype.${content.dtype}`)));
    view.cards.append(el("p", { class: "note", role: "status" }, t("loading")));
    await prepare(shelf);
    if (shelf !== current()) return;
    shelf.cards.forEach((_, index) => makeCard(shelf, index));
    layCards(shelf);
    take(view.area.value);
  }

  /** The note under the box: how its text is cut. */
  function shelfUnit(shelf) {
    const kinds = new Set(shelf.spec.models.map(({ tokenizer }) => content.tokenizers[tokenizer].kind));
    if (kinds.size > 1) return "cut.mixed";
    return `cut.${[...kinds][0]}`;
  }

  return { render, draw, shelves, options, change, stop: () => view.write && stop() };
})();
