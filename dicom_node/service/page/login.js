// Asks for the token. Only where the node asks for one: with client certificates this is never seen.

import { token } from "./api.js";
import { el } from "./dom.js";

/**
 * @param {string|null} sentence why it is asked again
 * @param {function} opened called when there is a token to try
 */
export function login(sentence, opened) {
  const field = el("input", {
    id: "token", type: "password", autocomplete: "off", spellcheck: false, required: true,
    "aria-describedby": "token-help",
  });
  const wrong = el("p.wrong", { role: "alert", hidden: sentence === null }, sentence);
  const form = el("form.login", {
    onsubmit: (event) => {
      event.preventDefault();
      const text = field.value.trim();
      if (/^[!-~]+$/.test(text)) { // what a header can carry, and what the node takes for a token
        token.keep(text);
        opened();
      } else {
        wrong.textContent = "A token has only letters, digits and signs, without spaces; copy it again.";
        wrong.hidden = false;
      }
    },
  },
  el("h1", {}, "Access token"),
  wrong,
  el("label", { htmlFor: "token" }, "Access token"),
  field,
  el("p.hint", { id: "token-help" },
    "It is the one line of the file ", el("code", {}, "service.token"),
    " in the node's archive folder (without a configuration ",
    el("code", {}, "~/.local/share/sightline/service.token"),
    "), or of the file that ", el("code", {}, "service.token_file"),
    " names. It stays in this tab and is forgotten when the tab is closed."),
  el("button.main", { type: "submit" }, "Open"));
  queueMicrotask(() => field.focus());
  return form;
}
