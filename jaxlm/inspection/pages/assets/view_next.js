"use strict";
// A column a run: its most probable next tokens at the selected place, with the token that came.
jaxlm.view("next", (() => {
  let data, tools, place, columns, scale;
  // The answers of a run before its token `index`: [{word, p, rank, came}], the true token at the end if
  // it is not among the first.
  function answers(run) {
    const index = tools.selected(run), numbers = data.runs[run], shape = numbers.numbers.shape, ids = tools.array(numbers.numbers), p = tools.array(numbers.probabilities);
    const found = [], scores = tools.page.views.surprise.runs[run], skips = skipped(run);
    for (let k = 0; k < shape[1]; k++) {
      const id = ids[index * shape[1] + k];
      if (id >= 0) found.push({word: numbers.words[id], p: p[index * shape[1] + k], rank: k + 1, came: false});
    }
    if (index < tools.length(run) && found.length && !skips) {
      const bits = tools.array(scores.surprisal)[index], rank = tools.array(scores.rank)[index], word = came(run, index);
      const hit = found.find((x) => x.word === word.id);
      if (hit) hit.came = true;
      else found.push({word: word.id, p: 2 ** -bits, rank, came: true, apart: true});
    }
    return found;
  }
  // Whether the run leaves out the selected character.
  const skipped = (run) => tools.runs[run].skipped.find(([first, last]) => first <= tools.state.character && tools.state.character < last);
  // The token that came: as the model has it, and as it stands in the text.
  function came(run, index) {
    const text = tools.tokenText(run, index);
    const special = data.runs[run].came[index];
    return {id: special === undefined ? text : special, text};
  }
  function draw() {
    const {t, el, number, visible, state, slice} = tools, run = state.run, index = state.token, last = index >= tools.length(run);
    const context = slice(Math.max(0, state.character - 24), state.character);
    place.replaceChildren(
      el("button", {type: "button", disabled: index === 0, onclick: () => tools.select({token: index - 1})}, t("next.previous")),
      el("p", {class: "where", dir: "auto"}, el("span", {}, context ? t("next.place", {context: tools.runs[run].unit === "words" ? context.replace(/\s+/g, " ").trim() : visible(context)}) : t("next.place.start")), el("br"),
        el("strong", {}, last ? t("next.end") : t("next.true", {token: tools.brief(came(run, index).text)}))),
      el("button", {type: "button", disabled: last, class: "following", onclick: () => tools.select({token: index + 1})}, t("next.following")));
    const all = tools.runs.map((_, k) => answers(k));
    const most = Math.max(0.02, ...all.flat().map((x) => x.p).filter(Number.isFinite)), full = Math.ceil(most * 10) / 10 >= 0.2 ? Math.ceil(most * 10) / 10 : Math.ceil(most * 50) / 50;
    columns.replaceChildren(...all.map((found, k) => {
      const numbers = data.runs[k], order = numbers.order ? tools.array(numbers.order)[tools.selected(k)] : 0;
      return el("div", {class: "column", "data-run": tools.runs[k].label}, el("h3", {}, el("i", {class: "swatch", style: {background: tools.colour.series(k)}}), tools.runs[k].label, " ", el("small", {}, t("next.unit", {unit: t(`unit.${tools.runs[k].unit}`)}))),
        found.length ? el("ol", {class: "bars"}, found.map((x) => el("li", {class: (x.came ? "came" : "") + (x.apart ? " apart" : ""), "data-word": x.word, "data-p": x.p, "data-rank": x.rank},
          el("span", {class: "word"}, el("bdi", {}, visible(x.word)), x.came ? el("span", {class: "tick", title: t("next.came")}, " ✓", el("span", {class: "offscreen"}, t("next.came"))) : null),
          el("span", {class: "bar", "aria-hidden": "true"}, el("i", {style: {width: `${Math.max(0.4, (100 * x.p) / full)}%`, background: tools.colour.series(k)}})),
          el("span", {class: "number"}, number(x.p, x.p < 0.0005 ? undefined : 3)),
          x.apart ? el("span", {class: "rank"}, t("next.rank", {rank: x.rank})) : null))) : el("p", {class: "missing"}, t("next.none", {run: tools.runs[k].label})),
        skipped(k) ? el("p", {class: "note"}, t("next.skipped", {run: tools.runs[k].label, token: visible(slice(...skipped(k)))})) : null,
        order > 0 ? el("p", {class: "note"}, t("next.order", {order, longest: numbers.longest})) : null);
    }));
    scale.textContent = t("next.scale", {p: number(full)});
  }
  return {
    render(section, given, given_tools) {
      data = given; tools = given_tools;
      const {el, t} = tools;
      place = el("div", {class: "place"});
      columns = el("div", {class: "columns"});
      scale = el("p", {class: "note"});
      section.append(tools.figure({title: t("next.chart"), class: "next", body: el("div", {}, place, columns, scale),
        table: () => ({headers: ["run", "word", "p", "rank", "true"].map((key) => t(`next.head.${key}`)), rows: tools.runs.flatMap((run, k) => answers(k).map((x) => [run.label, x.word, x.p, x.rank, x.came ? t("next.yes") : ""]))})}));
      draw();
    },
    update(state, changed) { if (changed.has("token") || changed.has("run") || changed.has("character")) draw(); },
  };
})());
