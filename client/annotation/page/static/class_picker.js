import { make } from "./element.js";

/** The task's classes with their colours, keys and painted areas; `pick(index)` chooses one. */
export function makeClassPicker(classes, grid, pick) {
  const buttons = classes.map((label, place) => classButton(label, place, pick));
  const element = make("div", { class: "classes", role: "radiogroup", "aria-label": "What to paint" },
    ...buttons.map(({ button }) => button));
  const pixelMm2 = grid.pixelWidthMm * grid.pixelHeightMm;
  return {
    element,
    show(index) {
      classes.forEach((label, place) => {
        const { button } = buttons[place];
        button.setAttribute("aria-checked", String(label.index === index));
        button.tabIndex = label.index === index ? 0 : -1;
      });
    },
    showAreas(counts) {
      classes.forEach((label, place) => {
        const area = counts[label.index] * pixelMm2;
        buttons[place].area.textContent = counts[label.index] ? `${inMm2(area)}` : "–";
      });
    },
  };
}

function classButton({ index, name, colour }, place, pick) {
  const dot = make("span", { class: "dot" });
  dot.style.backgroundColor = colour;
  const area = make("span", { class: "area" });
  const key = place < 9 ? make("kbd", { text: String(place + 1) }) : null;
  const button = make("button", {
    type: "button", class: "class", role: "radio", "data-class": index, on: {
      click: () => pick(index),
      keydown: (event) => moveFocus(event),
    },
  }, dot, make("span", { class: "name", text: name }), area, key);
  return { button, area };
}

function moveFocus(event) {
  const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  if (!step) return;
  event.preventDefault();
  event.stopPropagation();
  const other = event.currentTarget[step];
  if (!other) return;
  other.click();
  other.focus();
}

function inMm2(area) {
  if (area >= 1000) return `${(area / 100).toFixed(1)} cm²`;
  return `${area < 10 ? area.toFixed(1) : Math.round(area)} mm²`;
}
