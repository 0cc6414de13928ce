import { makeSvg } from "./element.js";

const PATHS = {
  brush: "M14.5 4.5l5 5L10 19l-5 1 1-5zM12.5 6.5l5 5",
  eraser: "M8.5 19.5h11M4.5 14.5l9-9 6 6-8 8h-3.5z M9 10l6 6",
  threshold: "M4 19l5-10 4 6 3-4 4 8z M4 6h16 M4 6v0",
  polygon: "M6 18L4 9l8-5 8 6-4 9z",
  lasso: "M12 5c5 0 8 2 8 5s-3 5-8 5-8-2-8-5 3-5 8-5zM8 15c-2 1-2 4 1 4",
  fill: "M5 12l7-7 7 7-7 7zM5 12h14 M20 17c1 1.5 1 3 0 3s-1-1.500 0-3",
  window: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 1 1 0 16",
  pan: "M12 4v16M4 12h16M9 7l3-3 3 3M9 17l3 3 3-3M7 9l-3 3 3 3M17 9l3 3-3 3",
  undo: "M8 5L4 9l4 4M4 9h9a6 6 0 0 1 0 11h-3",
  redo: "M16 5l4 4-4 4M20 9h-9a6 6 0 0 0 0 11h3",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
};

/** A line drawing, 24 units wide, in the colour of the text around it. */
export function icon(name) {
  return makeSvg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true", class: `icon ${name}` },
    makeSvg("path", { d: PATHS[name] }));
}
