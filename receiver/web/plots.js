"use strict";
// Line plots on canvas: one figure each, several series, the newest value in words.
const Plots = (() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function niceMax(value) {
    if (!(value > 0)) return 1;
    const power = 10 ** Math.floor(Math.log10(value));
    return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= value);
  }

  // Seconds without a value over which a line goes on: a segment of 6 s brings one value in 6 s.
  const GAP = 10;

  function figure(parent, spec) {
    const element = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    element.append(caption, canvas);
    parent.append(element);
    return { spec, caption, canvas };
  }

  function describe(plot, values) {
    const parts = plot.spec.series.map((s) => {
      const newest = values[s.key]?.findLast((v) => v !== null && v !== undefined);
      return `${s.label} ${newest === undefined ? "–" : plot.spec.format(newest)}`;
    });
    plot.caption.replaceChildren(Object.assign(document.createElement("b"), { textContent: plot.spec.title }), ` · ${parts.join(", ")}`);
    plot.canvas.setAttribute("aria-label", `${plot.spec.title}: ${parts.join(", ")}`);
    return parts.join(", ");
  }

  function draw(plot, values) {
    const canvas = plot.canvas;
    const scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const c = canvas.getContext("2d");
    c.scale(scale, scale);
    const all = plot.spec.series.flatMap((s) => values[s.key] || []).filter((v) => v !== null);
    const max = niceMax(Math.max(plot.spec.least || 0, ...all));
    const y = (v) => height - 14 - (v / max) * (height - 22);
    c.strokeStyle = css("--line");
    c.fillStyle = css("--soft");
    c.font = "11px system-ui, sans-serif";
    c.lineWidth = 1;
    for (const part of [0, 0.5, 1]) {
      c.beginPath();
      c.moveTo(0, y(max * part));
      c.lineTo(width, y(max * part));
      c.stroke();
      if (part > 0) c.fillText(plot.spec.format(max * part), 2, y(max * part) + 11);
    }
    c.fillText("5 min ago", 2, height - 2);
    c.fillText("now", width - 24, height - 2);
    for (const series of plot.spec.series) {
      const points = values[series.key] || [];
      const x = (i) => (1 - (points.length - 1 - i) / 300) * width;
      c.strokeStyle = c.fillStyle = css(series.color);
      c.lineWidth = 1.6;
      c.beginPath();
      let last = -Infinity;
      points.forEach((v, i) => {
        if (v === null || v === undefined) return;
        if (i - last <= GAP) c.lineTo(x(i), y(v));
        else {
          // Alone, it would be a line of no length.
          c.fillRect(x(i) - 1.5, y(v) - 1.5, 3, 3);
          c.moveTo(x(i), y(v));
        }
        last = i;
      });
      c.stroke();
    }
  }

  return { figure, draw, describe };
})();
