import { make } from "./element.js";
import { icon } from "./icons.js";

const TOOLS = [
  ["brush", "Brush", "B"],
  ["eraser", "Eraser", "E"],
  ["threshold", "Threshold brush: paints only what is as bright as where the stroke begins", "T"],
  ["polygon", "Polygon", "P"],
  ["lasso", "Lasso", "L"],
  ["fill", "Fill an outlined area", "G"],
  ["window", "Brightness and contrast by dragging", "W"],
  ["pan", "Move the picture", "H"],
];

const ACTIONS = [["undo", "Undo", "Ctrl+Z"], ["redo", "Redo", "Ctrl+Y"], ["fit", "Show the whole slice", "F"]];

/** The column of tools; `pick(name)` and `act(name)` for undo, redo, fit. */
export function makeToolbar({ pick, act }) {
  const buttons = new Map(TOOLS.map(([name, label, key]) => [name, toolButton(name, label, key, pick)]));
  const actions = ACTIONS.map(([name, label, key]) => toolButton(name, label, key, act));
  const element = make("div", {
    class: "toolbar", role: "toolbar", "aria-label": "Tools", "aria-orientation": "vertical",
  }, ...buttons.values(), make("hr"), ...actions);
  return {
    element,
    show(tool) {
      for (const [name, button] of buttons) button.setAttribute("aria-pressed", String(name === tool));
    },
  };
}

function toolButton(name, label, key, run) {
  return make("button", {
    type: "button", class: "tool", title: `${label} (${key})`, "aria-label": label,
    "aria-keyshortcuts": key.replace("Ctrl", "Control"), "data-tool": name, on: { click: () => run(name) },
  }, icon(name));
}
