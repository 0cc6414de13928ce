import { make } from "./element.js";

/** The windows that a scan can be seen in by one press; `show(windowing)` marks the one in use. */
export function makePresets(presets, change) {
  const buttons = presets.map(({ name, low, high }) => make("button", {
    type: "button", class: "chip", text: name, title: `${low} to ${high}`, on: { click: () => change(low, high) },
  }));
  return {
    element: make("div", { class: "chips", role: "group", "aria-label": "Brightness and contrast" }, ...buttons),
    show({ low, high }) {
      presets.forEach((preset, place) => {
        const inUse = preset.low === low && preset.high === high;
        buttons[place].setAttribute("aria-pressed", String(inUse));
      });
    },
  };
}
