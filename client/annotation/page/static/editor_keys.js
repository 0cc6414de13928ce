const FAR = 10;
const ZOOM_STEP = 1.25;

/** The editor's keys, by group, as the help sheet shows them. */
export function editorKeys(editor) {
  const { easel } = editor;
  return [toolKeys(easel), paintKeys(easel), viewKeys(editor, easel), cursorKeys(easel), finishKeys(editor)];
}

function toolKeys(easel) {
  const tool = (name, letter, what) => ({
    on: [letter], shown: letter.toUpperCase(), what, run: () => easel.set({ tool: name }),
  });
  return {
    title: "Tools",
    keys: [
      tool("brush", "b", "brush"),
      tool("eraser", "e", "eraser"),
      tool("threshold", "t", "threshold brush"),
      tool("polygon", "p", "polygon"),
      tool("lasso", "l", "lasso"),
      tool("fill", "g", "fill"),
      tool("window", "w", "brightness and contrast; a right drag does the same"),
      tool("pan", "h", "move; Space or the middle button does the same"),
    ],
  };
}

function paintKeys(easel) {
  const pickPlace = ({ key }) => {
    const label = easel.classes[Number(key) - 1];
    if (label) easel.set({ label: label.index });
  };
  const size = (key, steps, what) => ({ on: [key], shown: key, what, run: () => easel.stepSize(steps) });
  const band = (key, steps, what) => ({ on: [key], shown: key, what, run: () => easel.stepBand(steps) });
  return {
    title: "Painting",
    keys: [
      { on: [..."123456789"], shown: "1 … 9", what: "pick a class", run: pickPlace },
      size("[", -1, "smaller brush; so does Alt + wheel"),
      size("]", 1, "larger brush"),
      band("{", -1, "narrower brightness band"),
      band("}", 1, "wider brightness band"),
      { on: ["k"], shown: "K", what: "keep other labels", run: () => keepOthers(easel) },
      { on: ["Ctrl+z", "z"], shown: "Ctrl + Z", what: "undo", run: () => easel.undo() },
      { on: ["Ctrl+y", "Ctrl+Shift+z", "y"], shown: "Ctrl + Y", what: "redo", run: () => easel.redo() },
      { on: [], shown: "Shift", what: "held while painting: erase" },
    ],
  };
}

function viewKeys(editor, easel) {
  const step = (steps) => editor.showSlice(easel.shown + steps);
  const zoom = (factor) => easel.stage.canvas.move((view) => view.zoomInMiddle(factor));
  const holdSpace = ({ target }) => {
    // Space on a button presses it.
    if (target.matches("button, input, summary, a")) return false;
    easel.spaceHeld = true;
    return true;
  };
  const { low, high } = easel.scan.display;
  return {
    title: "View",
    keys: [
      { on: ["+", "="], shown: "+", what: "zoom in; so does Ctrl + wheel", run: () => zoom(ZOOM_STEP) },
      { on: ["-"], shown: "-", what: "zoom out", run: () => zoom(1 / ZOOM_STEP) },
      { on: ["f"], shown: "F", what: "show the whole slice", run: () => editor.act("fit") },
      { on: ["r"], shown: "R", what: "brightness as at first", run: () => easel.setWindow(low, high) },
      { on: ["o"], shown: "O", what: "hide or show the labels", run: () => hideLabels(editor) },
      { on: ["PageUp"], shown: "PageUp", what: "next slice, as context; so does the wheel", run: () => step(1) },
      { on: ["PageDown"], shown: "PageDown", what: "slice before, as context", run: () => step(-1) },
      { on: ["Home"], shown: "Home", what: "back to the slice to paint", run: () => editor.showSlice(easel.index) },
      { on: [" "], shown: "Space", what: "held: drag to move", run: holdSpace },
    ],
  };
}

function cursorKeys(easel) {
  const onSlice = (run) => (event) => {
    if (event.target !== easel.stage.surface) return false;
    run(event);
    return true;
  };
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = (far) => onSlice(({ key }) => easel.moveCursor(arrows[key][0] * far, arrows[key][1] * far));
  const key = (on, shown, what, run) => ({ on, shown, what, run });
  const names = Object.keys(arrows);
  const erase = onSlice(() => easel.applyAtCursor({ erase: true }));
  return {
    title: "Painting by keyboard",
    keys: [
      key(names, "Arrows", "move the cross by a pixel", move(1)),
      key(names.map((name) => `Shift+${name}`), "Shift + Arrows", "by ten pixels", move(FAR)),
      key(["Enter"], "Enter", "use the tool at the cross; close a polygon", onSlice(() => enter(easel))),
      key(["Shift+Enter"], "Shift + Enter", "erase at the cross", erase),
      key(["Backspace"], "Backspace", "take the polygon's last corner back", () => easel.polygon.dropLast()),
      key(["Escape"], "Esc", "drop the polygon; back from context", () => escape(easel)),
    ],
  };
}

function finishKeys(editor) {
  return {
    title: "Finish",
    keys: [
      { on: ["Ctrl+Enter"], shown: "Ctrl + Enter", what: "submit", run: () => editor.submit() },
      { on: ["n"], shown: "N", what: "nothing here", run: () => editor.nothingHere() },
      { on: ["Ctrl+s"], shown: "Ctrl + S", what: "save now; every stroke is anyway", run: () => editor.autosave.retry() },
      { on: ["?"], shown: "?", what: "this sheet", run: () => editor.page.help() },
    ],
  };
}

function keepOthers(easel) {
  easel.set({ keepOthers: !easel.settings.keepOthers });
}

/** With the mouse, Enter closes the polygon; at the keyboard's cross, a corner set twice does. */
function enter(easel) {
  const { polygon, cursor, settings } = easel;
  if (settings.tool !== "polygon" || !cursor) {
    if (settings.tool === "polygon") polygon.close();
    else easel.applyAtCursor({ erase: false });
    return;
  }
  const last = polygon.corners.at(-1);
  const again = last && last.x === cursor.x + 0.5 && last.y === cursor.y + 0.5;
  if (again) polygon.close();
  else easel.applyAtCursor({ erase: false });
}

function escape(easel) {
  if (easel.polygon.isOpen) easel.polygon.drop();
  else easel.showSlice(easel.index);
}

function hideLabels(editor) {
  const { stage } = editor.easel;
  editor.shownOpacity = stage.opacity || editor.shownOpacity || 0.55;
  stage.setOpacity(stage.opacity ? 0 : editor.shownOpacity);
  editor.layout.update();
}
