// axios: obeys HTTP_PROXY.

import { Agent } from "node:http";
import { Readable } from "node:stream";
import axios from "axios";

import { credentials, linesOf, run } from "./plan.mjs";

run((place) => {
  let httpAgent = new Agent({ keepAlive: true });
  const send = (path, { headers, ...more }) =>
    axios({
      url: place.base + path,
      headers: { ...credentials(place), ...headers },
      responseType: "arraybuffer",
      validateStatus: () => true,
      httpAgent,
      ...more,
    });
  const answer = async (sent) => {
    const { status, headers, data } = await sent;
    return { status, headers: { ...headers }, body: Buffer.from(data) };
  };
  return {
    version: axios.VERSION,
    request: async (method, path, headers, body) => {
      const data = body === undefined || typeof body === "string" ? body : Readable.from(body);
      return answer(send(path, { method, headers, data, maxRedirects: 0 }));
    },
    follow: (path) => answer(send(path, {})),
    lines: async (path) => linesOf((await send(path, { responseType: "stream" })).data),
    fresh: () => {
      httpAgent = new Agent({ keepAlive: true });
    },
  };
});
