"use strict";
for (const charts of document.querySelectorAll(".charts")) {
  charts.hidden = false;
}
for (const source of document.querySelectorAll("figure script")) {
  const options = {
    mode: "vega-lite", renderer: "svg", actions: false, ast: false,
    tooltip: { disableDefaultStyle: true },
  };
  vegaEmbed(source.previousElementSibling, JSON.parse(source.textContent), options).catch((error) => {
    source.parentElement.hidden = true; // the table below holds the same figures
    console.error(error);
  });
}
