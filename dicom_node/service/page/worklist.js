// The worklist: state, age, result, failure with its reason and a way to try again.

import { json, ofStudy } from "./api.js";
import { ago, count, el, moment, say } from "./dom.js";

const PAGE = 50;
const EVERY = 5000; // ms between two looks
export const STATES = {
  receiving: "images are coming",
  complete: "all images are here",
  queued: "waits to be read",
  read: "read",
  refused: "cannot be read",
  unchanged: "nothing new to read",
  "set aside": "waits for a person who wants it tried",
  failed: "reading failed",
  removed: "results were removed",
};

export class Worklist {
  /** @param {object} on `failed(error)`, `well()` */
  constructor(on) {
    this.on = on;
    this.offset = 0;
    this.results = new Map(); // uid and time of reading -> words
    this.seen = "";
    this.body = el("tbody");
    this.total = el("p.hint");
    this.newer = el("button", { type: "button", onclick: () => this.#turn(-PAGE) }, "Newer");
    this.older = el("button", { type: "button", onclick: () => this.#turn(PAGE) }, "Older");
    this.element = el("section.worklist", { "aria-label": "Worklist" },
      el("h1", {}, "Studies"), this.total,
      el("table", {},
        el("thead", {}, el("tr", {}, ...["State", "Study", "Images", "Last image", "Result", "Sent to"].map(
          (title) => el("th", { scope: "col" }, title)))),
        this.body),
      el("nav.pages", { "aria-label": "Pages" }, this.newer, this.older),
      el("p.hint", {}, "Volumes that were uploaded over HTTP, for example from 3D Slicer, are not listed here."));
  }

  /** Look, and look again every few seconds until `close`. */
  open() {
    this.timer = setInterval(() => document.hidden || this.#look(), EVERY);
    return this.#look();
  }

  close() {
    this.closed = true;
    clearInterval(this.timer);
  }

  #turn(by) {
    this.offset = Math.max(0, this.offset + by);
    return this.#look();
  }

  async #look() {
    try {
      const { total, studies } = await json(`/studies?limit=${PAGE}&offset=${this.offset}`);
      if (this.closed) return;
      this.on.well();
      this.#fill(total, studies);
    } catch (error) {
      if (!this.closed) this.on.failed(error);
    }
  }

  #fill(total, studies) {
    const last = this.offset + studies.length;
    this.total.textContent = total === 0
      ? "No study has come yet. Send one to the node over DICOM."
      : `${this.offset + 1} to ${last} of ${total}, newest first`;
    this.newer.disabled = this.offset === 0;
    this.older.disabled = last >= total;
    this.newer.parentElement.hidden = total <= PAGE;
    const now = JSON.stringify(studies.map((study) => [study, ago(study.last_image_at)]));
    if (now === this.seen) return; // a table that stands still keeps its focus
    this.seen = now;
    const focused = document.activeElement?.dataset?.focus;
    this.body.replaceChildren(...studies.map((study) => this.#row(study)));
    if (focused) this.body.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
  }

  #row(study) {
    const uid = study.study_instance_uid;
    const again = ["failed", "refused", "set aside"].includes(study.state);
    const name = el("span.uid", {}, uid);
    return el("tr", { "data-uid": uid },
      el("td", {},
        el(`span.state.${study.state.replace(" ", "-")}`, { title: STATES[study.state] }, study.state),
        study.reason === null ? null : el("p.reason", {}, study.reason),
        again ? el("button", {
          type: "button", "data-focus": `retry ${uid}`, "aria-label": `Try ${uid} again`,
          onclick: (event) => this.#retry(uid, event.target),
        }, "Try again") : null),
      el("td", {}, study.read_at === null ? name
        : el("a", { href: `#/studies/${uid}`, "data-focus": uid }, name)),
      el("td.number", {}, String(study.images)),
      el("td", { title: moment(study.last_image_at) }, ago(study.last_image_at)),
      el("td", {}, ...this.#result(study)),
      el("td", {}, ...this.#sent(study)));
  }

  #result(study) {
    if (study.read_at === null) return ["–"];
    const words = el("span", {}, "…");
    const name = `${study.study_instance_uid} ${study.read_at}`;
    if (!this.results.has(name)) {
      this.results.set(name, json(ofStudy(study.study_instance_uid, "/reading")).then(inWords));
    }
    this.results.get(name).then(
      (text) => (words.textContent = text),
      (error) => {
        words.textContent = error.message;
        this.results.delete(name);
      });
    return [words, el("p.hint", { title: moment(study.read_at) }, `read ${ago(study.read_at)}`)];
  }

  #sent(study) {
    if (study.deliveries.length === 0) return ["–"];
    return study.deliveries.map(({ destination, state, attempts, reason }) => el("div", {},
      `${destination}: `, el(`span.state.${state}`, {}, { dead: "given up", pending: "waits" }[state] ?? state),
      reason === null || state === "delivered" ? null
        : el("p.reason", {}, `${reason} (${count(attempts, "attempt")})`)));
  }

  async #retry(uid, button) {
    button.disabled = true;
    try {
      await json(ofStudy(uid, "/retry"), { method: "POST" });
      say("The study will be read again.");
      await this.#look();
    } catch (error) {
      this.on.failed(error); // stays in sight until the next look that succeeds
    }
    button.disabled = false;
  }
}

function inWords({ findings, lesions }) {
  const present = findings.filter((finding) => finding.status === "present").length;
  return `${count(lesions.length, "lesion")}, ${count(present, "finding")} present`;
}
