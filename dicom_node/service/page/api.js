// The service over HTTP: the token, one sentence for every failure. Knows no elements.
//
// The token is in sessionStorage (gone with the tab) and in a header, never in an address: addresses
// end up in logs and histories. For the same reason texts that are asked go in the body.

const BASE = "/api/1";
const API = "1";
const KEEP = "sightline-token";
const SECONDS = 60;

/** What went wrong, as a sentence for a person. `status` is 0 where no answer came. */
export class Failure extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEEP),
  keep: (text) => sessionStorage.setItem(KEEP, text),
  forget: () => sessionStorage.removeItem(KEEP),
};

/** The path of a study, or of something of it. */
export function ofStudy(uid, rest = "") {
  return `/studies/${encodeURIComponent(uid)}${rest}`;
}

/** JSON of a path; with `body` it is sent there. */
export async function json(path, { method, body } = {}) {
  return (await answer(path, { method, body })).json();
}

/** The picture of a path as a Blob. */
export async function picture(path, { body } = {}) {
  return (await answer(path, { body })).blob();
}

async function answer(path, { method, body }) {
  const headers = new Headers();
  if (token.get()) headers.set("Authorization", `Bearer ${token.get()}`);
  if (body !== undefined) headers.set("Content-Type", "application/json");
  let got;
  try {
    got = await fetch(BASE + path, {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(1000 * SECONDS),
    });
  } catch (error) {
    throw new Failure(0, notAnswered(error));
  }
  if (got.headers.get("x-sightline-api") !== API) {
    throw new Failure(0, "What answers here is not the Sightline node that this page is of; reload the page.");
  }
  if (!got.ok) throw new Failure(got.status, await refused(got));
  return got;
}

function notAnswered(error) {
  if (error.name === "TimeoutError") return `The node did not answer within ${SECONDS} seconds; try again.`;
  return "The node does not answer; see that sightline serve is running and the network is up.";
}

async function refused(got) {
  if (got.status === 401) {
    return token.get()
      ? "The node does not accept this token; copy the line of its token file again."
      : "The node asks for its access token.";
  }
  try {
    const { error, cure } = await got.json();
    return `${error.charAt(0).toUpperCase()}${error.slice(1)}; ${cure}.`;
  } catch {
    return `The node answered with status ${got.status}; see its log.`;
  }
}
