"use strict";
// Draws the charts that the page holds as data, in the colors of the reader's scheme, and again when that changes.
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 520px)");
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const font = getComputedStyle(document.body).fontFamily;

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  // `@name` is a color of the style sheet, but only under keys that name one: no text of the data is taken for it.
  const painted = (value, key) => {
    if (Array.isArray(value)) return value.map((item) => painted(item, key));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, painted(item, name)]));
    }
    const named = typeof value === "string" && value.startsWith("@") && /color(scale)?$/.test(key);
    return named ? color(value.slice(1)) : value;
  };

  const draw = () => {
    const ink = color("ink");
    for (const chart of charts) {
      const layout = painted(chart.layout, "");
      layout.height = chart.height;
      layout.autosize = true;
      layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
      layout.font = { family: font, size: narrow.matches ? 11 : 13, color: ink };
      layout.hoverlabel = { ...layout.hoverlabel, bgcolor: color("card"), bordercolor: color("axis"), font: { color: ink } };
      for (const axis of [layout.xaxis, layout.yaxis]) axis.title.font = { size: narrow.matches ? 11 : 12 };
      layout.dragmode = touch ? false : "zoom"; // a finger that scrolls the page must not zoom a chart
      const config = { responsive: true, displayModeBar: false };
      Plotly.react(chart.id, painted(chart.traces, ""), layout, config);
    }
  };

  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  draw();
})();
