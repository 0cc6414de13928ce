import { ask } from "./dialog.js";
import { make } from "./element.js";

/** The sheet of all keys that work on the page as it is. */
export function showHelp(groups) {
  const columns = groups.map(({ title, keys }) =>
    make("section", {}, make("h3", { text: title }), make("dl", {}, ...keys.flatMap(row))));
  return ask({
    title: "Keys and gestures",
    words: "",
    content: make("div", { class: "help" }, ...columns),
    choices: [{ value: "close", label: "Close", kind: "primary" }],
  });
}

function row({ shown, what }) {
  // A plus or a slash between two keys joins them; one that stands alone is a key.
  const keys = shown.split(/( [+/] )/).map((key) => (/^ [+/] $/.test(key) ? key.trim() : make("kbd", { text: key })));
  return [make("dt", {}, ...keys), make("dd", { text: what })];
}
