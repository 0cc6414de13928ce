import { make } from "./element.js";

/** A labelled slider: {element, show(value)}; `format` writes the value beside the label. */
export function makeSlider({ label, min, max, step = 1, keys, format, change }) {
  const shown = make("output");
  const input = make("input", { type: "range", min, max, step, "aria-label": label });
  input.addEventListener("input", () => change(Number(input.value)));
  const hint = keys ? make("span", { class: "keys" }, ...keys.map((key) => make("kbd", { text: key }))) : null;
  const element = make("div", { class: "slider" },
    make("div", { class: "slider-top" }, make("span", { text: label }), hint, shown), input);
  return {
    element,
    input,
    show(value) {
      input.value = value;
      shown.textContent = format(value);
      input.setAttribute("aria-valuetext", format(value));
    },
  };
}
