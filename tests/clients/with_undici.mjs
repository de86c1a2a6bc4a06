// undici's own request(). EnvHttpProxyAgent obeys HTTP_PROXY, but asks for a tunnel unless it is told otherwise.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { Agent, EnvHttpProxyAgent, ProxyAgent, interceptors, request } from "undici";

import { credentials, linesOf, run } from "./plan.mjs";

const manifest = createRequire(import.meta.url).resolve("undici/package.json");

run((place) => {
  const renew = () => {
    if (place.proxy) return new ProxyAgent({ uri: place.proxy, proxyTunnel: false });
    return process.env.HTTP_PROXY ?? process.env.HTTPS_PROXY ? new EnvHttpProxyAgent() : new Agent();
  };
  let dispatcher = renew();
  const send = (path, { headers, ...more }) =>
    request(place.base + path, { dispatcher, headers: { ...credentials(place), ...headers }, ...more });
  const answer = async (sent) => {
    const { statusCode, headers, body } = await sent;
    return { status: statusCode, headers, body: Buffer.from(await body.arrayBuffer()) };
  };
  return {
    version: JSON.parse(readFileSync(manifest)).version,
    request: (method, path, headers, body) => answer(send(path, { method, headers, body })),
    follow: (path) =>
      answer(send(path, { dispatcher: dispatcher.compose(interceptors.redirect({ maxRedirections: 5 })) })),
    lines: async (path) => linesOf((await send(path, {})).body),
    fresh: () => {
      dispatcher = renew();
    },
  };
});
