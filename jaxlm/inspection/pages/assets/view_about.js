"use strict";
jaxlm.view("about", {
  render(section, data, tools) {
    const {el, t} = tools;
    // Longer terms first, so that a term inside another does not split it.
    const terms = Object.keys(tools.page.texts).filter((key) => key.startsWith("about.term.")).sort((a, b) => b.length - a.length);
    const meaning = (cell) => terms.reduce((text, key) => text.replace(new RegExp(`\\b${key.slice("about.term.".length)}\\b`, "g"), t(key)), cell);
    data.runs.forEach((run, k) => {
      const frame = tools.runs[k];
      const headers = run.headers.map((name) => (tools.page.texts[`about.head.${name}`] ? t(`about.head.${name}`) : name));
      const footer = run.footer && run.footer.map((name) => (tools.page.texts[`about.head.${name}`] ? t(`about.head.${name}`) : name));
      const rows = run.rows.map((row) => [...row.slice(0, -1), meaning(row.at(-1))]);
      const facts = [t(run.counted ? "about.counted" : "about.facts", {vocabulary: run.vocabulary, unit: t(`unit.${frame.unit}`), step: run.step}), t(`about.start.${run.start}`)];
      if (run.by_lines) facts.push(t("about.rows"));
      if (run.window !== null) facts.push(t("about.window", {window: run.window}));
      if (run.last_only) facts.push(t("about.last_only"));
      section.append(tools.figure({title: `${t("about.layers", {run: frame.label})}: ${run.model}`, class: "layers", table: () => ({headers, rows}),
        body: el("div", {}, tools.plainTable(headers, rows, footer), el("p", {class: "note"}, facts.join(tools.state.lang === "zh" ? "" : " ")),
          run.command ? el("p", {class: "note"}, t("about.command"), ": ", el("code", {}, run.command)) : null)}));
    });
    section.append(el("h3", {}, t("about.numbers")), el("ul", {class: "protocol"}, ["token", "surprise", "entropy", "perplexity", "gates", "correlation"].map((key) => el("li", {}, t(`about.${key}`)))));
  },
});
