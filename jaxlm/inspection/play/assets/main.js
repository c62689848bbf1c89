"use strict";
// The page: two tabs, the switch of the language, and the foot.

const jaxlmPlay = (() => {
  const { content, state, el, t, said } = Frame;
  const TABS = { play: Playing, train: Training };
  const root = document.getElementById("page");
  let tab = location.hash === "#train" ? "train" : "play";
  const sections = {};

  function choose(name, focus) {
    TABS[tab].stop();
    tab = name;
    render();
    if (focus) document.getElementById(`tab-${name}`).focus();
  }

  function tabButton(name) {
    const names = Object.keys(TABS);
    return el("button", {
      type: "button",
      role: "tab",
      id: `tab-${name}`,
      "aria-selected": String(name === tab),
      "aria-controls": `panel-${name}`,
      tabindex: name === tab ? 0 : -1,
      onclick: () => choose(name, true),
      onkeydown: (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        choose(names[(names.indexOf(name) + step + names.length) % names.length], true);
      },
    }, t(`tab.${name}`));
  }

  function foot() {
    const rows = Object.entries(content.foot).filter(([, value]) => value);
    return el("footer", {}, el("dl", {}, rows.map(([name, value]) => [el("dt", {}, t(`foot.${name}`)), el("dd", {}, name === "command" ? el("code", {}, value) : said(value))])), el("p", {}, t("foot.private")));
  }

  async function render() {
    document.documentElement.dataset.ready = "false";
    document.documentElement.lang = state.lang === "zh" ? "zh-Hans" : state.lang;
    const other = state.lang === "zh" ? "en" : "zh";
    const switchLanguage = () => {
      state.lang = other;
      TABS[tab].stop();
      render();
    };
    for (const name of Object.keys(TABS)) sections[name] = el("section", { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}`, hidden: name !== tab });
    root.replaceChildren(
      el("header", {}, el("h1", {}, t("title")), el("button", { type: "button", id: "language", lang: other, "aria-label": t("language.label"), onclick: switchLanguage }, t("language"))),
      el("nav", {}, el("div", { role: "tablist", "aria-label": t("title") }, Object.keys(TABS).map(tabButton))),
      el("main", {}, Object.values(sections)),
      foot());
    await TABS[tab].render(sections[tab]);
    document.documentElement.dataset.ready = "true";
  }

  let resized = null;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => TABS[tab].draw(), 100);
  });
  Frame.dark.addEventListener("change", render);
  render();

  return { Numbers, Models, Tokenizers, Learning, Reading, Playing, Training };
})();
