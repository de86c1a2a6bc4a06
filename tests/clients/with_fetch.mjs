// fetch, as Node.js has it built in. With NODE_USE_ENV_PROXY=1, Node.js 24 obeys HTTP_PROXY, but asks for a tunnel; a dispatcher
// of the package undici can be told not to.

import { credentials, linesOf, run } from "./plan.mjs";

run(async (place) => {
  if (place.proxy) {
    const { ProxyAgent, setGlobalDispatcher } = await import("undici");
    setGlobalDispatcher(new ProxyAgent({ uri: place.proxy, proxyTunnel: false }));
  }
  const send = (path, { headers, ...more }) =>
    fetch(place.base + path, { headers: { ...credentials(place), ...headers }, ...more });
  const answer = async (sent) => {
    const got = await sent;
    return { status: got.status, headers: Object.fromEntries(got.headers), body: Buffer.from(await got.arrayBuffer()) };
  };
  return {
    version: process.versions.node.split(".")[0],
    request: (method, path, headers, body) =>
      answer(send(path, { method, headers, body, duplex: "half", redirect: "manual" })),
    follow: (path) => answer(send(path, {})),
    lines: async (path) => linesOf((await send(path, {})).body),
    // There is one pool, and it is not ours to renew: requests before this one have left it a connection.
    fresh: () => {},
  };
});
