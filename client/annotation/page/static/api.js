/** A request that the server refused. `body` is its JSON answer, `status` the HTTP status. */
export class Refused extends Error {
  constructor(status, body) {
    super(body.error || `the server answered ${status}`);
    this.status = status;
    this.body = body;
  }
}

/** A request that no answer came to, or one that the server failed at: worth another try. */
export class Unreachable extends Error {}

export const me = () => getJson("/api/me");
export const scan = (id) => getJson(scanPath(id));
export const claim = (id) => sendJson("POST", `${scanPath(id)}/claim`);
export const unclaim = (id) => sendJson("DELETE", `${scanPath(id)}/claim`, undefined, true);
export const submit = (id, body) => sendJson("POST", `${scanPath(id)}/submit`, body);
export const versions = (id, index) => getJson(`${scanPath(id)}/versions/${index}`);
export const review = (id) => getJson(`${scanPath(id)}/review`);
export const verdict = (id, body) => sendJson("POST", `${scanPath(id)}/verdict`, body);
export const ask = (id, index) => sendJson("POST", `${scanPath(id)}/ask`, { index });

/** A page of the worklist; `filters` may name task, state, offset and limit. */
export function worklist(filters) {
  const named = Object.entries(filters).filter(([, value]) => value !== "" && value !== undefined);
  return getJson(`/api/worklist?${new URLSearchParams(named)}`);
}

/** The grey values of one slice, Int16Array in array order. */
export async function slice(id, index) {
  const response = await request("GET", `${scanPath(id)}/slices/${index}`);
  return new Int16Array(await readBytes(response));
}

/** One submitted version of a painted slice, Uint8Array in array order. */
export async function version(id, index, number) {
  const response = await request("GET", `${scanPath(id)}/versions/${index}/${number}`);
  return new Uint8Array(await readBytes(response));
}

/** The newest own draft: {mask, version, seconds}, or null if there is none. */
export async function draft(id, index) {
  try {
    const response = await request("GET", `${scanPath(id)}/drafts/${index}`);
    return {
      mask: new Uint8Array(await readBytes(response)),
      version: Number(response.headers.get("X-Version")),
      seconds: Number(response.headers.get("X-Seconds")),
    };
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  }
}

/** Saves a draft that continues `version`; {version} is its own. */
export async function saveDraft(id, index, { mask, version: base, seconds, another = false, leaving }) {
  const query = `version=${base}&seconds=${seconds.toFixed(1)}&another=${another}`;
  const response = await request("PUT", `${scanPath(id)}/drafts/${index}?${query}`, {
    body: mask,
    headers: { "Content-Type": "application/octet-stream" },
    keepalive: leaving,
  });
  return response.json();
}

/** One slice of the review: {image: Int16Array, label: Uint8Array, confidence: Uint8Array}. */
export async function reviewSlice(id, axis, index, digest, numPixels) {
  const query = new URLSearchParams({ digest });
  const response = await request("GET", `${scanPath(id)}/review/${axis}/${index}?${query}`);
  const bytes = await readBytes(response);
  return {
    image: new Int16Array(bytes, 0, numPixels),
    label: new Uint8Array(bytes, 2 * numPixels, numPixels),
    confidence: new Uint8Array(bytes, 3 * numPixels, numPixels),
  };
}

function scanPath(id) {
  return `/api/scans/${encodeURIComponent(id)}`;
}

async function getJson(path) {
  return (await request("GET", path)).json();
}

async function sendJson(method, path, body, keepalive = false) {
  const options = { keepalive };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  return (await request(method, path, options)).json();
}

async function request(method, path, options = {}) {
  const headers = { ...options.headers };
  // No other site can make a browser send this header here: the server asks for it on each change.
  if (method !== "GET") headers["X-OneSlice"] = "1";
  let response;
  try {
    response = await fetch(path, { ...options, method, headers, credentials: "same-origin" });
  } catch {
    throw new Unreachable("the page's server does not answer");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  if (response.status >= 500) throw new Unreachable(body.error || "the page's server failed");
  throw new Refused(response.status, body);
}

async function readBytes(response) {
  try {
    return await response.arrayBuffer();
  } catch {
    throw new Unreachable("the answer broke off");
  }
}
