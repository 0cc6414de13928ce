const VALUE_KEYS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "PageUp", "PageDown", "Home", "End"];

/**
 * Listens to the keyboard. `groups` are {title, keys}, each key {on: [names], shown, what, run}; names
 * are as the browser's `key`, letters small, with Ctrl+, Alt+ and Shift+ in front. Returns how to stop.
 */
export function listenToKeys(groups) {
  const actions = new Map();
  for (const key of groups.flatMap((group) => group.keys)) {
    for (const name of key.on) actions.set(name, key);
  }
  const listener = (event) => {
    const key = actions.get(nameOf(event));
    if (!key || isTyping(event) || document.querySelector("dialog[open]")) return;
    if (key.run(event) !== false) event.preventDefault();
  };
  document.addEventListener("keydown", listener);
  return () => document.removeEventListener("keydown", listener);
}

function nameOf(event) {
  const isSign = event.key.length === 1;
  const isLetter = /^[a-z]$/i.test(event.key);
  // On keyboards where signs such as [ need AltGr, the browser reports Ctrl and Alt as well.
  const plain = isSign && event.getModifierState("AltGraph");
  let name = isSign ? event.key.toLowerCase() : event.key;
  if (event.shiftKey && (isLetter || !isSign)) name = `Shift+${name}`;
  if (event.altKey && !plain) name = `Alt+${name}`;
  if ((event.ctrlKey || event.metaKey) && !plain) name = `Ctrl+${name}`;
  return name;
}

function isTyping({ target, key }) {
  if (target.matches("textarea, input:not([type=range]):not([type=checkbox]), [contenteditable]")) return true;
  return target.matches("select, input[type=range]") && VALUE_KEYS.includes(key);
}
