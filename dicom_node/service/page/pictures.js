// Pictures of slices as blob addresses: fetched with the token, each once, the oldest dropped first.

import { ofStudy, picture } from "./api.js";

const MOST = 240;

export class Pictures {
  constructor(uid) {
    this.uid = uid;
    this.kept = new Map(); // name -> promise of an address
  }

  /** The slice in grey. */
  slice(k, window) {
    return this.#get(`${k} ${window}`, `/slices/${k}/image?window=${window}`);
  }

  /** Its outlines; at least one kind has to be wanted. */
  outlines(k, organs, lesions) {
    return this.#get(`${k} ${organs} ${lesions}`, `/slices/${k}/outlines?organs=${organs}&lesions=${lesions}`);
  }

  /** How well its places agree with a text. */
  heat(k, text) {
    return this.#get(`${k} heat ${text}`, `/slices/${k}/heatmap`, { text });
  }

  /** Give all of them back. */
  close() {
    for (const address of this.kept.values()) revoke(address);
    this.kept.clear();
  }

  #get(name, path, body) {
    let address = this.kept.get(name);
    if (address === undefined) {
      address = picture(ofStudy(this.uid, path), { body }).then((blob) => URL.createObjectURL(blob));
      address.catch(() => this.kept.delete(name)); // asked again the next time
    } else {
      this.kept.delete(name);
    }
    this.kept.set(name, address);
    if (this.kept.size > MOST) {
      const [oldest, dropped] = this.kept.entries().next().value;
      this.kept.delete(oldest);
      revoke(dropped);
    }
    return address;
  }
}

function revoke(address) {
  address.then(URL.revokeObjectURL, () => null); // one that never came needs no giving back
}
