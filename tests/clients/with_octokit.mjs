// octokit: `baseUrl`; its HTTP is Node's own fetch, so what that obeys, it obeys.

import { readFileSync } from "node:fs";
import { Octokit } from "octokit";

import { linesOf, measured, piece, readEvents, run } from "./plan.mjs";

const manifest = new URL(import.meta.resolve("octokit")).pathname.replace(/dist[^/]*\/.*/, "package.json");

const REPOSITORY = { owner: "o", repo: "r" };

run(
  (place) => ({
    version: JSON.parse(readFileSync(manifest)).version,
    sdk: new Octokit({ auth: place.own, baseUrl: place.base, request: { headers: { "x-api-key": place.own } } }),
  }),
  ({ sdk }) => {
    const read = async (path) => told(await sdk.request(`GET /repos/o/r/${path}`));
    return {
      get: async () => told(await sdk.request("GET /repos/o/r/get?q=a%20b&list=1&list=2")),
      json: async ({ body }) => told(await sdk.rest.issues.create({ ...REPOSITORY, ...body, title: "t" })),
      upload: async ({ pieces }) => {
        const data = Buffer.concat(Array.from({ length: pieces }, (_, n) => piece(n)));
        return told(await sdk.request("POST /repos/o/r/releases/1/upload", { data }));
      },
      large: async () => measured(Buffer.from((await sdk.request("GET /repos/o/r/large")).data)),
      events: async () => {
        const answer = await sdk.request("GET /repos/o/r/events", { request: { parseSuccessResponseBody: false } });
        return readEvents(linesOf(answer.data), (n) => read(`ack-${n}`));
      },
      head: async () => {
        const { status, headers } = await sdk.request("HEAD /repos/o/r/sized");
        return { status, length: headers["content-length"], bytes: 0 };
      },
      no_content: async () => {
        const { status } = await sdk.request("GET /repos/o/r/none");
        return { status, bytes: 0 };
      },
      not_modified: () =>
        sdk.request("GET /repos/o/r/cached", { headers: { "if-none-match": '"1"' } }).catch(({ status }) => ({ status, bytes: 0 })),
      redirect: () => read("redirect"),
      redirect_path: () => read("redirect-path"),
      keep_alive: async ({ requests }) => {
        let answer;
        for (let n = 0; n < requests; n++) answer = await read(`keep-${n}`);
        return answer;
      },
      denied: () =>
        sdk.request("GET /repos/o/r/denied").catch(({ status, response }) => ({
          status,
          type: response.headers["content-type"],
          // It takes what is not application/json for bytes.
          reason: JSON.parse(Buffer.from(response.data)).reason,
        })),
    };
  },
);

function told({ status, data }) {
  return { status, text: typeof data === "string" ? data : JSON.stringify(data) };
}
