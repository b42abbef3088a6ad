// Draws every figure from the JSON that stands beside it, in the page's own colours.
"use strict";
const dark = window.matchMedia("(prefers-color-scheme: dark)");

const config = { responsive: true, displaylogo: false, showSendToCloud: false, showEditInChartStudio: false };

function ink(printing) {
  return dark.matches && !printing ? "#d8dde3" : "#22272e";
}

function recolour(printing) {
  for (const box of document.querySelectorAll(".js-plotly-plot")) {
    Plotly.relayout(box, { "font.color": ink(printing) });
  }
}

for (const source of document.querySelectorAll('script[type="application/json"][data-for]')) {
  const plot = JSON.parse(source.textContent);
  plot.layout.font = { color: ink(false) };
  Plotly.newPlot(document.getElementById(source.dataset.for), plot.data, plot.layout, config);
}
dark.addEventListener("change", () => recolour(false));
window.addEventListener("beforeprint", () => recolour(true));
window.addEventListener("afterprint", () => recolour(false));
