// got: knows no proxy of its own; under Node.js 24 with NODE_USE_ENV_PROXY=1, HTTP_PROXY is obeyed below it.

import { readFileSync } from "node:fs";
import { Agent, globalAgent } from "node:http";
import { Readable } from "node:stream";
import got from "got";

import { credentials, linesOf, run } from "./plan.mjs";

const manifest = new URL(import.meta.resolve("got")).pathname.replace(/dist\/.*/, "package.json");

run((place) => {
  const proxied = process.env.NODE_USE_ENV_PROXY === "1";
  // An agent of got's user would not obey the variable; Node's global one does.
  let http = globalAgent;
  const options = (headers) => ({ headers: { ...credentials(place), ...headers }, agent: { http }, throwHttpErrors: false });
  const answer = async (sent) => {
    const { statusCode, headers, rawBody } = await sent;
    return { status: statusCode, headers, body: Buffer.from(rawBody) };
  };
  return {
    version: JSON.parse(readFileSync(manifest)).version,
    request: async (method, path, headers, body) => {
      const given = body === undefined || typeof body === "string" ? body : Readable.from(body);
      const more = { method, body: given, followRedirect: false };
      return answer(got(place.base + path, { ...options(headers), ...more }));
    },
    follow: (path) => answer(got(place.base + path, options({}))),
    lines: async (path) => linesOf(got.stream(place.base + path, options({}))),
    fresh: () => {
      if (!proxied) http = new Agent({ keepAlive: true });
    },
  };
});
