// Small helpers for elements and words. No data, no requests. Text is only ever set as text, never as HTML.

/**
 * An element.
 * @param {string} name tag, with classes as in "p.hint.small"
 * @param {object} [properties] attributes ("aria-label"), handlers ("onclick") and properties ("disabled")
 * @param {...(Node|string|null)} children text or elements; null is left out
 */
export function el(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const made = document.createElement(tag);
  made.classList.add(...classes);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && !key.includes("-")) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Say something to those who listen instead of looking. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** "urinary_bladder" as a person writes it. */
export function words(name) {
  return name.replaceAll("_", " ");
}

/** With a capital letter. */
export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A share of 0..1 as percent; a dash where there is none. */
export function percent(share) {
  return share === null || share === undefined ? "–" : `${Math.round(100 * share)} %`;
}

/** How long ago a time was, in seconds since the epoch. */
export function ago(seconds) {
  const past = Math.max(0, Date.now() / 1000 - seconds);
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (past >= length) return `${Math.floor(past / length)} ${unit} ago`;
  }
  return "just now";
}

/** A time in seconds since the epoch as the browser's country writes it. */
export function moment(seconds) {
  return new Date(1000 * seconds).toLocaleString();
}

/** "1 image", "2 images". */
export function count(number, thing) {
  return `${number} ${thing}${number === 1 ? "" : "s"}`;
}
