// One study: query line and hits, key images, findings, lesions, round the viewer; and the keys.

import { json, ofStudy } from "./api.js";
import { capital, count, el, percent, say, words } from "./dom.js";
import { toPicture } from "./geometry.js";
import { Pictures } from "./pictures.js";
import { Viewer, WINDOWS } from "./viewer.js";

const HITS = 5;
const KEY_IMAGES = 12;
const FAST = 10; // slices of Page up and Page down
const IN_AIR = new Set(["lung_nodule", "emphysema", "pneumothorax", "lung_consolidation"]);
const ORDER = ["present", "undetermined", "absent"];

export class StudyView {
  /** @param {object} on `failed(error)`, `well()` */
  constructor(uid, on) {
    this.uid = uid;
    this.on = on;
    this.hits = [];
    this.at = -1;
    this.pictures = new Pictures(uid);
    this.keyed = (event) => this.#key(event);
    this.element = el("section.study", { "aria-label": "Study" }, el("p.hint", {}, "Opening the study …"));
  }

  async open() {
    try {
      const [stack, reading] = await Promise.all([
        json(ofStudy(this.uid, "/slices")), json(ofStudy(this.uid, "/reading")),
      ]);
      if (this.closed) return;
      this.on.well();
      this.#build(stack, reading);
      await this.viewer.show(this.#first(stack, reading));
      this.#legend(await json(ofStudy(this.uid, "/outlines")));
    } catch (error) {
      if (this.closed) return;
      this.on.failed(error);
      if (this.viewer === undefined) {
        this.element.replaceChildren(el("p.hint", {}, "This study cannot be shown. ",
          el("a", { href: "#/" }, "Back to the worklist")));
      }
    }
  }

  close() {
    this.closed = true;
    document.removeEventListener("keydown", this.keyed);
    this.viewer?.close();
    this.pictures.close();
  }

  #build(stack, reading) {
    this.place = toPicture(stack.to_lps);
    this.viewer = new Viewer(stack, this.pictures, {
      moved: (k) => this.#moved(k), failed: (error) => this.on.failed(error),
    });
    this.field = el("input", {
      id: "text", type: "search", maxLength: 500, autocomplete: "off", placeholder: "hypodense liver lesion",
    });
    this.list = el("ol.hits", { "aria-label": "Places found" });
    this.organs = el("ul.legend");
    this.element.replaceChildren(
      el("div.side", {},
        el("form.ask", { role: "search", onsubmit: (event) => this.#asked(event) },
          el("label", { htmlFor: "text" }, "Find in this study"),
          el("div.line", {}, this.field, el("button.main", { type: "submit" }, "Find"))),
        this.list,
        this.#keyImages(reading)),
      this.viewer.element,
      el("div.side", {}, this.#lesions(reading.lesions), this.#findings(reading.findings),
        el("h2", {}, "Drawn on this slice"), this.organs, help()));
    document.addEventListener("keydown", this.keyed);
    this.viewer.stage.focus({ preventScroll: true });
  }

  // Where the story is: the most probable lesion, else a present finding, else the middle.
  #first(stack, reading) {
    const [first] = keys(reading);
    return first ? this.place(first.position).slice : stack.slices / 2;
  }

  #keyImages(reading) {
    const shown = keys(reading).slice(0, KEY_IMAGES);
    const box = el("div.keys");
    for (const { title, position, window } of shown) {
      const place = this.place(position);
      const k = Math.min(this.viewer.stack.slices - 1, Math.max(0, Math.round(place.slice)));
      const slice = el("img", { alt: "" });
      const outlines = el("img", { alt: "" });
      const frame = el("span.thumb", {}, slice, outlines);
      box.append(el("button", {
        type: "button", "data-slice": k, onclick: () => this.#jump(place, title, window),
      }, frame, el("span", {}, capital(title))));
      for (const [image, address] of [
        [slice, this.pictures.slice(k, window)], [outlines, this.pictures.outlines(k, false, true)],
      ]) address.then((found) => (image.src = found), (error) => this.on.failed(error));
    }
    return el("section", { "aria-label": "Key images" }, el("h2", {}, "Key images"),
      shown.length ? box : el("p.hint", {}, "No lesion, and no finding with a place."));
  }

  #lesions(lesions) {
    return el("section", { "aria-label": "Lesions" }, el("h2", {}, "Lesions"),
      lesions.length === 0 ? el("p.hint", {}, "None was outlined.") : el("ul.rows", {}, ...lesions.map((lesion) => {
        const title = `${words(lesion.type)} ${lesion.segment_number}`;
        const size = `${lesion.long_axis_mm.toFixed(0)} × ${lesion.short_axis_mm.toFixed(0)} mm, `
          + `${lesion.volume_ml.toFixed(1)} ml`;
        return el("li", {}, el("button.row", {
          type: "button", onclick: () => this.#jump(this.place(lesion.centroid_lps_mm), title, windowOf(lesion.type)),
        }, el("span.name", {}, capital(title), el("small", {}, size)),
        el("span.number", {}, percent(lesion.probability))));
      })));
  }

  #findings(findings) {
    const organs = Map.groupBy(findings, (finding) => finding.organ);
    const best = (group) => Math.min(...group.map((finding) => ORDER.indexOf(finding.status)));
    const sorted = [...organs].sort(([, one], [, other]) => best(one) - best(other));
    return el("section", { "aria-label": "Findings" }, el("h2", {}, "Findings"),
      ...sorted.map(([organ, group]) => el("div.organ", {}, el("h3", {}, capital(words(organ))),
        el("ul.rows", {}, ...group.map((finding) => this.#finding(finding))))));
  }

  #finding({ abnormality, status, probability, position_lps_mm: position }) {
    const title = words(abnormality);
    const inside = [
      el("span.name", {}, capital(title)), el(`span.state.${status}`, {}, status),
      el("span.number", {}, percent(probability)),
    ];
    if (position === null) return el("li", {}, el("span.row", { title: "the organ is not in view" }, ...inside));
    return el("li", {}, el("button.row", {
      type: "button", onclick: () => this.#jump(this.place(position), title, windowOf(abnormality)),
    }, ...inside));
  }

  async #jump(place, title, window) {
    if (window && window !== this.viewer.window) this.viewer.setWindow(window);
    await this.viewer.goTo(place);
    say(`${title}, ${this.viewer.name()}`);
  }

  async #asked(event) {
    event.preventDefault();
    const text = this.field.value.trim();
    if (text === "") return;
    try {
      const { hits } = await json(ofStudy(this.uid, "/query"), { body: { text, k: HITS } });
      this.on.well();
      this.hits = hits;
      this.list.replaceChildren(...hits.map((hit, at) => this.#hit(hit, at)));
      this.viewer.stage.focus({ preventScroll: true });
      this.viewer.setText(text);
      await (hits.length > 0 ? this.#toHit(0) : this.viewer.show(this.viewer.k));
    } catch (error) {
      this.on.failed(error);
    }
  }

  #hit(hit, at) {
    const place = { ...this.place(hit.position_lps_mm), slice: hit.slice_index };
    return el("li", {}, el("button.row", { type: "button", onclick: () => this.#toHit(at) },
      el("span.rank", {}, String(hit.rank)),
      el("span.name", {}, capital(words(hit.organ)), el("small", {}, this.viewer.name(place.slice))),
      el("span.number", { title: "cosine of the place and the text" }, hit.score.toFixed(2))));
  }

  async #toHit(at) {
    this.at = at;
    const hit = this.hits[at];
    [...this.list.children].forEach((item, index) => {
      if (index === at) item.firstChild.setAttribute("aria-current", "true");
      else item.firstChild.removeAttribute("aria-current");
    });
    await this.#jump({ ...this.place(hit.position_lps_mm), slice: hit.slice_index },
      `hit ${at + 1} of ${count(this.hits.length, "hit")}, ${words(hit.organ)}`, null);
  }

  #moved(k) {
    for (const button of this.element.querySelectorAll(".keys button")) {
      button.toggleAttribute("data-here", Number(button.dataset.slice) === k);
    }
    for (const item of this.organs.children) {
      if (item.slices) item.hidden = !item.slices.has(k);
    }
  }

  #legend({ organs, lesions, organs_kept: kept }) {
    const items = [...lesions, ...organs].map(({ display, colour, slices }) => {
      const dot = el("span.dot");
      dot.style.background = colour;
      const item = el("li", {}, dot, capital(display));
      item.slices = new Set(slices);
      return item;
    });
    const note = kept ? [] : [el("li.hint", {}, "The node keeps no organ masks (results.organs = false).")];
    this.organs.replaceChildren(...items, ...note);
    this.#moved(this.viewer.k);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target instanceof HTMLInputElement && event.target.type === "search";
    if (typing) {
      if (event.key === "Escape") this.viewer.stage.focus({ preventScroll: true });
      return;
    }
    const { viewer } = this;
    const hits = this.hits.length;
    const actions = {
      ArrowUp: () => viewer.step(1),
      ArrowDown: () => viewer.step(-1),
      PageUp: () => viewer.step(FAST),
      PageDown: () => viewer.step(-FAST),
      Home: () => viewer.end(true),
      End: () => viewer.end(false),
      n: () => hits > 0 && this.#toHit((this.at + 1) % hits),
      p: () => hits > 0 && this.#toHit((this.at - 1 + hits) % hits),
      o: () => viewer.toggle("organs"),
      l: () => viewer.toggle("lesions"),
      h: () => viewer.text !== null && viewer.toggle("heat"),
      "/": () => this.field.focus(),
      ...Object.fromEntries(WINDOWS.map(([name], at) => [String(at + 1), () => viewer.setWindow(name)])),
    };
    const action = actions[event.key];
    if (action === undefined) return;
    event.preventDefault();
    action();
  }
}

// What gets a key image: every lesion, then present findings that no lesion stands for; the most probable first.
function keys({ lesions, findings }) {
  const outlined = new Set(lesions.map((lesion) => lesion.type));
  const certain = (one, other) => other.probability - one.probability;
  const drawn = lesions.map((lesion) => ({
    title: `${words(lesion.type)} ${lesion.segment_number}`, position: lesion.centroid_lps_mm,
    window: windowOf(lesion.type), probability: lesion.probability,
  }));
  const found = findings
    .filter(({ status, position_lps_mm: p, abnormality: a }) => status === "present" && p !== null && !outlined.has(a))
    .map((finding) => ({
      title: words(finding.abnormality), position: finding.position_lps_mm,
      window: windowOf(finding.abnormality), probability: finding.probability,
    }));
  return [...drawn.sort(certain), ...found.sort(certain)];
}

function windowOf(abnormality) {
  return IN_AIR.has(abnormality) ? "lung" : "soft";
}

function help() {
  const rows = [
    ["↑ ↓", "next slice to head, feet"], ["Page ↑ ↓", `${FAST} slices`], ["n p", "next, previous hit"],
    ["1 2 3", "windows"], ["o l h", "organs, lesions, heat map"], ["/", "query line"],
  ];
  return el("details.help", {}, el("summary", {}, "Keys"),
    el("dl", {}, ...rows.flatMap(([key, does]) => [el("dt", {}, key), el("dd", {}, does)])));
}
