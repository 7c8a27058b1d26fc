// A line of the last figures, without axes.

import { svg } from "/ui/dom.js";

const WIDTH = 120;
const HEIGHT = 24;

export function points(figures, most) {
  const step = WIDTH / Math.max(1, figures.length - 1);
  return figures.map((figure, at) => `${(at * step).toFixed(1)},${(HEIGHT - 2 - (figure / most) * (HEIGHT - 4)).toFixed(1)}`).join(" ");
}

export function sparkline(figures) {
  const most = Math.max(1, ...figures);
  const label = `tokens per second, the last ${figures.length} seconds; at most ${most.toFixed(0)}`;
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "img", "aria-label": label, class: "spark" },
    svg("polyline", { points: points(figures, most) }),
  );
}
