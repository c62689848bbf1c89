"use strict";
jaxlm.view("surprise", {
  render(section, data, tools) {
    section.append(tools.el("p", {class: "text"}, data.text));
  },
});
