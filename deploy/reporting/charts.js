"use strict";
for (const charts of document.querySelectorAll(".charts")) {
  charts.hidden = false;
}
for (const source of document.querySelectorAll("figure script")) {
  const options = {
    mode: "vega-lite", renderer: "svg", actions: false, ast: false,
    tooltip: { disableDefaultStyle: true }, config: { aria: false },
  };
  const chart = source.previousElementSibling;
  vegaEmbed(chart, JSON.parse(source.textContent), options).then(() => {
    // its description and the table are read out, not every mark and tick
    chart.setAttribute("role", "img");
    chart.querySelector("svg").setAttribute("aria-hidden", "true");
    chart.querySelector("form")?.remove();
  }).catch((error) => {
    source.parentElement.hidden = true; // the table below holds the same figures
    console.error(error);
  });
}
