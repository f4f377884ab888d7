// Starts the page: which view the address names, the login where it is needed, and failures in one sentence.

import { Failure, json, token } from "./api.js";
import { el } from "./dom.js";
import { login } from "./login.js";
import { StudyView } from "./study.js";
import { Worklist } from "./worklist.js";

const byId = (id) => document.getElementById(id);
let view = null;

const on = {
  failed(error) {
    if (error instanceof Failure && error.status === 401) {
      const sentence = token.get() === null ? null : error.message;
      token.forget();
      ask(sentence);
      return;
    }
    const words = error instanceof Failure ? error.message : "This page has a defect; reload it.";
    if (!(error instanceof Failure)) console.error(error);
    byId("failure").replaceChildren(el("span", {}, words),
      el("button", { type: "button", "aria-label": "Hide this message", onclick: on.well }, "×"));
    byId("failure").hidden = false;
  },
  well() {
    byId("failure").hidden = true;
    byId("leave").hidden = token.get() === null;
  },
};

function show(element) {
  view?.close?.();
  view = null;
  on.well();
  byId("main").replaceChildren(element);
}

function ask(sentence) {
  show(login(sentence, route));
  byId("where").textContent = "";
}

async function route() {
  const uid = /^#\/studies\/([0-9.]{1,64})$/.exec(location.hash)?.[1];
  const next = uid === undefined ? new Worklist(on) : new StudyView(uid, on);
  show(next.element);
  view = next;
  byId("where").textContent = uid === undefined ? "" : `Study ${uid}`;
  document.title = uid === undefined ? "Sightline" : "Study – Sightline";
  await next.open();
}

async function about() {
  try {
    const { version, model } = await json("/health");
    byId("model").textContent = `${version}, model ${model.name} ${model.version}`;
  } catch (error) {
    on.failed(error);
  }
}

byId("leave").addEventListener("click", () => {
  token.forget();
  ask(null);
  on.well();
});
window.addEventListener("hashchange", route);
about();
route();
