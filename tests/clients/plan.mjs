// The steps of the plan for clients of Node.js, as plan.py has them for Python's: lines of JSON in, lines of JSON out.
//
// A client has `request(method, path, headers, body)`, whose body is a string or an async iterable to be streamed, `lines(path)`,
// `follow(path)` and `fresh()`; answers have `status`, `headers` (a plain object) and `body` (a Buffer).

import { createHash } from "node:crypto";
import { createInterface } from "node:readline";

/** The client has no way to do this; the text says so to the reader of the table. */
export class Cannot extends Error {}

export function steps(client) {
  return {
    get: async () => told(await client.request("GET", "/get?q=a%20b&list=1&list=2", {})),
    json: async ({ body }) =>
      told(await client.request("POST", "/json", { "content-type": "application/json" }, JSON.stringify(body))),
    upload: async ({ pieces }) =>
      told(await client.request("POST", "/upload", { "content-type": "text/plain" }, upload(pieces))),
    large: async () => measured((await client.request("GET", "/large", {})).body),
    events: async () => readEvents(await client.lines("/events"), (n) => client.request("GET", `/ack-${n}`, {})),
    head: async () => told(await client.request("HEAD", "/sized", {})),
    no_content: async () => told(await client.request("GET", "/none", {})),
    not_modified: async () => told(await client.request("GET", "/cached", { "if-none-match": '"1"' })),
    redirect: async () => told(await client.follow("/redirect")),
    redirect_path: async () => told(await client.follow("/redirect-path")),
    keep_alive: async ({ requests }) => {
      client.fresh();
      let answer;
      for (let n = 0; n < requests; n++) answer = await client.request("GET", `/keep-${n}`, {});
      return told(answer);
    },
    denied: async () => {
      const answer = await client.request("GET", "/denied", {});
      return { status: answer.status, type: answer.headers["content-type"], reason: JSON.parse(answer.body).reason };
    },
  };
}

export function told({ status, headers, body }) {
  return { status, length: headers["content-length"]?.toString() ?? null, bytes: body.length, text: body.toString() };
}

export function measured(body) {
  return { bytes: body.length, sha256: createHash("sha256").update(body).digest("hex") };
}

/** Pieces of 16 KiB that tell their place. */
export async function* upload(pieces) {
  for (let n = 0; n < pieces; n++) yield piece(n);
}

export function piece(n) {
  return Buffer.from(`${String(n).padStart(15, "0")}\n`.repeat(1024));
}

/** The numbers of the events. The upstream holds each back until the one before was acknowledged. */
export async function readEvents(lines, acknowledge) {
  const events = [];
  for await (const line of lines) {
    if (!line.startsWith("data: {")) continue;
    events.push(Number(JSON.parse(line.slice(6)).choices[0].delta.content));
    await acknowledge(events.at(-1));
  }
  return { events };
}

/** The lines of a stream of bytes, as they come. */
export async function* linesOf(stream) {
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + Buffer.from(chunk).toString()).split("\n");
    rest = lines.pop();
    yield* lines;
  }
}

export function credentials(place) {
  return { authorization: `Bearer ${place.own}`, "x-api-key": place.own };
}

/** Answers what comes in, until it ends. `make` gets the place and returns the client. */
export async function run(make, plan = steps) {
  let known;
  for await (const line of createInterface({ input: process.stdin })) {
    const said = JSON.parse(line);
    if (!known) {
      const client = await make(said);
      known = plan(client);
      say({ version: client.version });
      continue;
    }
    try {
      say(await known[said.step](said));
    } catch (error) {
      console.error(error);
      say(error instanceof Cannot ? { cannot: error.message } : { error: kind(error) });
    }
  }
}

/** What went wrong, the same in every run. */
function kind(error) {
  const code = error.cause?.code ?? error.code;
  return typeof code === "string" ? code : error.name;
}

function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}
