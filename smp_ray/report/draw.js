// Draws every figure from the JSON that stands beside it, in the page's own colours.
"use strict";
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function colours(printing) {
  const ink = dark.matches && !printing ? "#d8dde3" : "#22272e";
  const rule = "rgba(128,128,128,0.28)";
  const set = { "font.color": ink };
  return { ink, rule, set };
}

function themed(layout) {
  const { ink, rule } = colours(false);
  const font = { family: "system-ui, sans-serif", size: 13, color: ink };
  const result = {
    font, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
    margin: { l: 60, r: 16, t: 34, b: 50 }, hoverlabel: { align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: "#8a8f98", activecolor: "#3572b0" }, ...layout,
  };
  for (const key of Object.keys(result)) {
    if (/^[xy]axis\d*$/.test(key)) {
      result[key] = { gridcolor: rule, zerolinecolor: rule, linecolor: rule, automargin: true, ...result[key] };
    }
  }
  return result;
}

function drawAll() {
  for (const source of document.querySelectorAll('script[type="application/json"][data-for]')) {
    const box = document.getElementById(source.dataset.for);
    const plot = JSON.parse(source.textContent);
    Plotly.newPlot(box, plot.data, themed(plot.layout), PLOT_CONFIG);
  }
}

function recolour(printing) {
  for (const box of document.querySelectorAll(".js-plotly-plot")) {
    Plotly.relayout(box, colours(printing).set);
  }
}

if (document.querySelector(".plot")) {
  drawAll();
  dark.addEventListener("change", () => recolour(false));
  window.addEventListener("beforeprint", () => recolour(true));
  window.addEventListener("afterprint", () => recolour(false));
}
