import { make } from "./element.js";

const MESSAGE_MS = 6000;

/**
 * Asks a question over the page; a promise of the chosen value, null if it was left unanswered.
 * `choices` are {value, label, kind} with kind primary, danger or plain; the first has the focus.
 */
export function ask({ title, words, choices, content = null }) {
  const dialog = make("dialog", { "aria-label": title });
  const buttons = choices.map(({ value, label, kind = "plain" }) =>
    make("button", { type: "button", class: kind, text: label, on: { click: () => finish(value) } }));
  dialog.append(
    make("h2", { text: title }),
    ...[words].flat().filter(Boolean).map((line) => make("p", { text: line })),
    ...(content ? [content] : []),
    make("div", { class: "choices" }, ...buttons),
  );
  let answer;
  const finish = (value) => {
    answer(value);
    dialog.close();
  };
  dialog.addEventListener("close", () => {
    answer(null);
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal();
  (dialog.querySelector("[autofocus]") ?? buttons[0]).focus();
  return new Promise((resolve) => {
    answer = resolve;
  });
}

/** Says something in passing, also to those who listen to the page. */
export function say(words, kind = "plain") {
  const messages = document.getElementById("messages");
  for (const old of messages.querySelectorAll(".message")) old.remove();
  const message = make("div", { class: `message ${kind}`, text: words });
  messages.append(message);
  setTimeout(() => message.remove(), MESSAGE_MS);
}
