import { make } from "./element.js";

/** The stack as a strip beside the slice: where one is, and where the slice to paint lies. */
export function makeSliceStrip(depth, index, show) {
  const input = make("input", {
    type: "range", min: 0, max: depth - 1, step: 1, value: index, class: "strip",
    "aria-label": "Slice shown; others than the one to paint are context", "aria-orientation": "vertical",
  });
  input.addEventListener("input", () => show(Number(input.value)));
  const mark = make("span", { class: "mark", title: `the slice to paint: ${index}` });
  mark.style.setProperty("--place", depth > 1 ? index / (depth - 1) : 0.5);
  return {
    element: make("div", { class: "slice-strip" }, input, mark),
    show(shown) {
      input.value = shown;
      input.setAttribute("aria-valuetext", shown === index ? `slice ${shown}, to paint` : `slice ${shown}, context`);
    },
  };
}
