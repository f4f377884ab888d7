// The axial viewer: one slice with its layers, wheel, slider and buttons. Knows no findings and no hits.

import { el } from "./dom.js";

export const WINDOWS = [["soft", "Soft tissue"], ["lung", "Lung"], ["bone", "Bone"]];
const LAYERS = [["organs", "Organs", "o"], ["lesions", "Lesions", "l"], ["heat", "Heat map", "h"]];
const AHEAD = 3; // slices that are fetched before they are wanted
const LATE = 400; // ms after the slice that its overlays may come
const NOTCH = 40; // of a wheel that counts in pixels
const AT_EDGES = ["left", "right", "top", "bottom"];

export class Viewer {
  /**
   * @param {object} stack answer of /slices
   * @param {Pictures} pictures of the study
   * @param {object} on `moved(k)` after another slice is shown, `failed(error)`
   */
  constructor(stack, pictures, on) {
    Object.assign(this, { stack, pictures, on });
    this.k = Math.floor(stack.slices / 2);
    this.window = "soft";
    this.shown = { organs: true, lesions: true, heat: true };
    this.text = null;
    this.mark = null;
    this.wheel = 0;
    this.working = null;
    this.late = 0; // slices whose overlays are still fetched
    this.stale = false;
    this.closed = false;
    this.#build();
  }

  #build() {
    this.layers = Object.fromEntries(
      ["slice", "heat", "outlines"].map((name) => [name, el(`img.${name}`, { alt: "", draggable: false })])
    );
    this.ring = el("div.ring", { hidden: true });
    const letters = this.stack.letters.map((letter, at) => el(`span.letter.${AT_EDGES[at]}`, {}, letter));
    this.picture = el("div.picture", {}, ...Object.values(this.layers), this.ring, ...letters);
    this.stage = el("div.stage", {
      tabIndex: 0, role: "img", onwheel: (event) => this.#wheeled(event),
    }, this.picture);
    this.slider = el("input.slider", {
      type: "range", min: 1, max: this.stack.slices, step: 1, "aria-label": "Slice, counted from the feet",
      oninput: () => this.show(this.#index(Number(this.slider.value))),
    });
    this.caption = el("output.caption", { title: "counted from the feet; z is the patient's axis, LPS" });
    this.windows = WINDOWS.map(([name, title], at) => el("button", {
      type: "button", title: `key ${at + 1}`, onclick: () => this.setWindow(name),
    }, title));
    this.toggles = LAYERS.map(([name, title, key]) => el("button", {
      type: "button", title: `key ${key}`, onclick: () => this.toggle(name),
    }, title));
    this.element = el("section.viewer", { "aria-label": "Slices" },
      el("div.bar", {},
        el("div.group", { role: "group", "aria-label": "Window" }, ...this.windows),
        el("div.group", { role: "group", "aria-label": "Overlays" }, ...this.toggles),
        this.caption),
      this.stage, this.slider);
    new ResizeObserver(() => this.#fit()).observe(this.stage);
    this.#press();
  }

  /** Go to slice `k`, as near as there is one. */
  show(k) {
    this.k = Math.min(this.stack.slices - 1, Math.max(0, Math.round(k)));
    return this.#draw();
  }

  /** Go some slices towards the head (or, if negative, the feet). */
  step(slices) {
    return this.show(this.k + slices * this.stack.head_up);
  }

  /** To the slice at one end. */
  end(head) {
    return this.show(head === (this.stack.head_up > 0) ? this.stack.slices - 1 : 0);
  }

  /** Mark a place {slice, y, x} and go to its slice. */
  goTo(place) {
    this.mark = place;
    return this.show(place.slice);
  }

  setWindow(name) {
    this.window = name;
    this.#press();
    return this.#draw();
  }

  toggle(layer) {
    this.shown[layer] = !this.shown[layer];
    this.#press();
    return this.#draw();
  }

  /** The text whose heat map the next slice comes with. */
  setText(text) {
    this.text = text;
    this.#press();
  }

  close() {
    this.closed = true;
  }

  /** Where slice `k` is, for people. */
  name(k = this.k) {
    return `slice ${this.#number(k)} of ${this.stack.slices}`;
  }

  #number(k) {
    return this.stack.head_up > 0 ? k + 1 : this.stack.slices - k;
  }

  #index(number) {
    return this.stack.head_up > 0 ? number - 1 : this.stack.slices - number;
  }

  // While one slice is fetched only the newest wish is kept, so that a quick wheel never piles up requests.
  async #draw() {
    this.slider.value = this.#number(this.k);
    this.slider.setAttribute("aria-valuetext", this.name());
    this.stale = true;
    if (this.working === null) {
      this.working = this.#work();
    }
    return this.working;
  }

  async #work() {
    document.body.dataset.busy = "true";
    while (this.stale && !this.closed) {
      this.stale = false;
      try {
        await this.#swap();
      } catch (error) {
        if (!this.closed) this.on.failed(error);
      }
    }
    this.working = null;
    this.#tellBusy();
    if (!this.closed) this.#fetchAhead();
  }

  #tellBusy() {
    document.body.dataset.busy = String(this.working !== null || this.late > 0);
  }

  // All layers change at once: an outline must never lie on another slice than its own. Where overlays take
  // long (the first look at the masks of a study), the slice comes without them, and again when they are there.
  async #swap() {
    const k = this.k;
    const all = this.#addresses(k);
    const whole = Promise.all(Object.values(all));
    const inTime = await Promise.race([
      whole.then(() => true, () => false), all.slice.then(() => new Promise((done) => setTimeout(done, LATE, false))),
    ]);
    if (!inTime) this.#drawAgain(k, whole);
    const wanted = inTime ? all : { slice: all.slice };
    const names = Object.keys(wanted);
    const addresses = await Promise.all(Object.values(wanted));
    const made = await Promise.all(addresses.map(decoded));
    for (const name of Object.keys(this.layers)) {
      const image = made[names.indexOf(name)];
      const next = image ?? el("img", { alt: "", hidden: true });
      next.className = name;
      next.draggable = false;
      this.layers[name].replaceWith(next);
      this.layers[name] = next;
    }
    this.stage.dataset.slice = k;
    this.stage.setAttribute("aria-label", `CT, ${this.name(k)}`);
    const height = this.stack.heights_mm[k].toFixed(1);
    this.caption.textContent = `${this.name(k)}, z ${height} mm`;
    this.#ringAt(k);
    this.on.moved(k);
  }

  async #drawAgain(k, whole) {
    this.late += 1;
    try {
      await whole;
      if (!this.closed && this.k === k) this.#draw();
    } catch (error) {
      if (!this.closed) this.on.failed(error);
    }
    this.late -= 1;
    this.#tellBusy();
  }

  #addresses(k) {
    const { organs, lesions, heat } = this.shown;
    return {
      slice: this.pictures.slice(k, this.window),
      ...(organs || lesions ? { outlines: this.pictures.outlines(k, organs, lesions) } : {}),
      ...(heat && this.text !== null ? { heat: this.pictures.heat(k, this.text) } : {}),
    };
  }

  #fetchAhead() {
    for (let off = 1; off <= AHEAD; off++) {
      for (const k of [this.k + off, this.k - off]) {
        if (k < 0 || k >= this.stack.slices) continue;
        for (const address of Object.values(this.#addresses(k))) address.catch(() => null); // told when it is shown
      }
    }
  }

  #ringAt(k) {
    this.ring.hidden = this.mark === null || Math.round(this.mark.slice) !== k;
    if (this.ring.hidden) return;
    this.ring.style.left = `${100 * (this.mark.x + 0.5) / this.stack.width}%`;
    this.ring.style.top = `${100 * (this.mark.y + 0.5) / this.stack.height}%`;
  }

  #press() {
    WINDOWS.forEach(([name], at) => this.windows[at].setAttribute("aria-pressed", name === this.window));
    LAYERS.forEach(([name], at) => {
      this.toggles[at].setAttribute("aria-pressed", this.shown[name]);
      this.toggles[at].disabled = name === "heat" && this.text === null;
    });
  }

  #wheeled(event) {
    event.preventDefault();
    this.wheel += event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY / NOTCH : event.deltaY;
    const slices = Math.trunc(this.wheel);
    this.wheel -= slices;
    if (slices !== 0) this.step(-Math.sign(slices) * Math.min(10, Math.abs(slices)));
  }

  #fit() {
    const { clientWidth, clientHeight } = this.stage;
    const scale = Math.min(clientWidth / this.stack.width, clientHeight / this.stack.height);
    this.picture.style.width = `${Math.floor(this.stack.width * scale)}px`;
    this.picture.style.height = `${Math.floor(this.stack.height * scale)}px`;
  }
}

async function decoded(address) {
  const image = new Image();
  image.alt = "";
  image.src = address;
  await image.decode();
  return image;
}
