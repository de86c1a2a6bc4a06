"""The cases, and what must be reached in each.

A row measures its contenders one after the other, each time from a fresh start, and gives figures. What must be reached
is a ratio to a peer that was measured in the same turn, or a figure as such.
"""

import contextlib
import http.client
import statistics
import time

from measure import loads
from measure.machine import free_ports
from measure.proxies import INTERCEPTING, PROXIES, TOKEN, Countersign, signed, token
from measure.servers import Echo, Failed, ManyOrigins, Tunnels, say

OURS = "countersign"


class Limit:
    """Ours is at most so many times the best of these peers, pair by pair; without peers, at most so much."""

    def __init__(self, figure, most, *peers):
        self.figure, self.most, self.peers = figure, most, peers

    def judge(self, runs):
        """What was found: what it is beside, the median, the lowest and the highest."""
        ours = [figures[self.figure] for figures in runs[OURS]]
        if self.peers:
            theirs = zip(*([figures[self.figure] for figures in runs[peer]] for peer in self.peers))
            ours = [mine / min(others) for mine, others in zip(ours, theirs)]
        median = statistics.median(ours)
        return {
            "figure": self.figure,
            "beside": " or ".join(self.peers),
            "most": self.most,
            "median": median,
            "lowest": min(ours),
            "highest": max(ours),
            "reached": median <= self.most
            and all(figures.get("held", True) for run in runs.values() for figures in run),
        }


class Row:
    """CPU of the proxy for each request, in microseconds, at saturation."""

    figures = ["cpu_us", "per_second"]

    def __init__(self, name, title, way, *limits, also=(), path="/", connections=64):
        self.name, self.title, self.way, self.limits = name, title, way, limits
        self.also, self.path, self.connections = also, path, connections

    def contenders(self):
        """Those that a limit names, those that are good to know, ours."""
        peers = {peer: None for limit in self.limits for peer in limit.peers}
        return [*dict.fromkeys([*peers, *self.also]), OURS]

    def seconds_each(self, seconds):
        """About how long a measurement takes."""
        return 3 + seconds

    def measure(self, ground, name, seconds, patience):
        with self.proxy(ground, name) as proxy:
            proxy.check()
            self.warm(proxy)
            figures = patience.least_disturbed([ground.origin.pid, proxy.pid], lambda: self.figures_of(proxy, seconds))
            return {"version": proxy.version(), **figures}

    def proxy(self, ground, name):
        return PROXIES[name](ground, self.way)

    def warm(self, proxy):
        self.load(proxy, 1)

    def load(self, proxy, seconds):
        return loads.wrk(proxy, seconds, self.path, self.connections)

    def figures_of(self, proxy, seconds):
        before = proxy.cpu()
        requests = self.load(proxy, seconds)
        return {"cpu_us": (proxy.cpu() - before) / requests, "per_second": requests / seconds}


class Grpc(Row):
    """The same for unary calls of gRPC: messages of five bytes, and trailers."""

    figures = ["cpu_us"]

    def load(self, proxy, seconds):
        return loads.grpc(proxy, seconds * 20000)


class WebSocket(Row):
    """CPU for each message of 64 bytes that is said and heard again."""

    figures = ["cpu_us"]

    def measure(self, ground, name, seconds, patience):
        with Echo(ground) as echo:
            ground.origin.ports[self.way] = echo.port
            with self.proxy(ground, name) as proxy:
                self.warm(proxy)
                figures = patience.least_disturbed([echo.pid, proxy.pid], lambda: self.figures_of(proxy, seconds))
                return {"version": proxy.version(), **figures}

    def proxy(self, ground, name):
        return Countersign(ground, self.way, lines="websocket = true") if name == OURS else super().proxy(ground, name)

    def load(self, proxy, seconds):
        return loads.websocket(proxy, self.connections, seconds * 8000)


class Scrubbed(Row):
    """The same of ours alone: where the token's bytes are looked for in the whole of each answer, beside where they are not."""

    OFF = "scrub = false"

    def contenders(self):
        return [self.OFF, OURS]

    def proxy(self, ground, name):
        proxy = Countersign(ground, self.way, lines=self.OFF if name == self.OFF else "scrub = true")
        if name != self.OFF:
            proxy.shown = "Bearer " + "[redacted]".ljust(len(TOKEN), "*")
        return proxy


class Http2(Row):
    """The same, over HTTP/2: four connections with sixteen streams each."""

    figures = ["cpu_us"]

    def load(self, proxy, seconds):
        # By number and not by time: h2load gives up what is under way when its time is over.
        return loads.h2load(proxy, ["-c4", "-m16", f"-n{seconds * 40000}"], self.path)


class Intercepted(Row):
    """The same in tunnels that the proxy looks into: it ends the client's TLS, and speaks TLS to the origin. The tunnels are
    open before the measurement begins."""

    figures = ["cpu_us"]

    def proxy(self, ground, name):
        return INTERCEPTING[name](ground, self.way)

    def warm(self, proxy):
        """Each run opens tunnels of its own: a short one would warm up nothing that a long one uses."""

    def load(self, proxy, seconds):
        streams = ["-m16"] if proxy.h2 else ["--h1"]
        with Tunnels(proxy) as tunnels:
            through = f"--connect-to=127.0.0.1:{tunnels.port}"
            requests = proxy.most_per_second * seconds
            return loads.h2load(proxy, [*streams, f"-c{self.connections}", f"-n{requests}", through], self.path)


class Handshakes(Intercepted):
    """CPU for each tunnel that is opened, with the handshake and one request in it."""

    def load(self, proxy, seconds):
        requests = 0
        streams = [] if proxy.h2 else ["--h1"]
        with Tunnels(proxy) as tunnels:
            words = [*streams, f"-c{self.connections}", f"-n{self.connections}", f"--connect-to=127.0.0.1:{tunnels.port}"]
            for _ in range(seconds * proxy.rounds_per_second):
                requests += loads.h2load(proxy, words, self.path)
        return requests


class Latency(Row):
    """Latencies in microseconds at a fixed rate, from the moment at which a request was due."""

    figures = ["p50", "p99", "p999", "cpu_us"]
    PER_SECOND = 20000

    def load(self, proxy, seconds):
        return loads.rate(proxy, self.PER_SECOND, seconds)

    def figures_of(self, proxy, seconds):
        before = proxy.cpu()
        found = self.load(proxy, seconds)
        if found["failed"]:
            raise Failed(f"{proxy.name}: {found}")
        # A machine that cannot send at this rate tells nothing about latencies at it.
        held = found["rate"] > 0.98 * self.PER_SECOND
        return {**found, "held": held, "cpu_us": (proxy.cpu() - before) / found["requests"]}


class Memory(Row):
    """Resident memory in megabytes: at rest, and with 1,000 connections that have carried a request each."""

    figures = ["idle_mb", "used_mb"]
    CONNECTIONS = 1000

    def contenders(self):
        return [*(name for name in PROXIES if name != OURS), OURS]

    def seconds_each(self, seconds):
        return 5

    def measure(self, ground, name, seconds, patience):
        with self.proxy(ground, name) as proxy:
            time.sleep(1)
            idle = proxy.resident()
            proxy.check()
            connections = loads.connect(proxy, self.CONNECTIONS)
            # Fifty at a time.
            for start in range(0, self.CONNECTIONS, 50):
                loads.visit(proxy, connections[start : start + 50], [proxy.base + "/"] * 50)
            time.sleep(1)
            used = proxy.resident()
            for connection in connections:
                connection.close()
            return {"version": proxy.version(), "idle_mb": idle, "used_mb": used}


class Start(Row):
    """Milliseconds from the start of the process to the first answer of the upstream."""

    figures = ["start_ms"]

    def contenders(self):
        return [*(name for name in PROXIES if name != OURS), OURS]

    def seconds_each(self, seconds):
        return 1

    def measure(self, ground, name, seconds, patience):
        patience.wait_for_quiet(ground.origin.pid)
        proxy = self.proxy(ground, name)
        proxy.start()
        try:
            took = first_answer(proxy, proxy.base + "/")
        finally:
            proxy.stop()
        return {"version": proxy.version(), "start_ms": took}


class Growth(Row):
    """The main case with so many routes and tokens, and requests spread over all of them."""

    figures = ["cpu_us", "per_second", "start_ms", "idle_mb", "used_mb"]
    SIZES = [10, 1000, 10000]

    def __init__(self, name, title, most):
        few, *many = map(str, self.SIZES)
        super().__init__(name, title, "tls", *(Grown(size, few, most) for size in many))

    def contenders(self):
        return [str(size) for size in self.SIZES]

    def seconds_each(self, seconds):
        return 12 + seconds

    def measure(self, ground, name, seconds, patience):
        size, first_port = int(name), free_ports(ManyOrigins.PORTS)
        script = spread(ground.folder, size)
        with contextlib.ExitStack() as stack:
            parts = range(ManyOrigins.PARTS)
            origins = [ManyOrigins(ground.folder, ground.load_core, part, first_port) for part in parts]
            for origin in origins:
                stack.enter_context(origin)
            proxy = many_routes(ground, size, first_port)
            proxy.start()
            stack.callback(proxy.stop)
            start_ms = first_answer(proxy, f"/r{size - 1}/", 120)
            time.sleep(1)
            idle_mb = proxy.resident()
            # A route's first request pays for a handshake.
            connections = [stack.enter_context(connection) for connection in loads.connect(proxy, 50)]
            loads.visit(proxy, connections, [f"/r{number}/" for number in range(size)])
            loads.wrk(proxy, 1, script=script)

            def measured():
                before = proxy.cpu()
                requests = loads.wrk(proxy, seconds, script=script)
                return {"cpu_us": (proxy.cpu() - before) / requests, "per_second": requests / seconds}

            figures = patience.least_disturbed([proxy.pid, *(origin.pid for origin in origins)], measured)
            figures |= {"start_ms": start_ms, "idle_mb": idle_mb, "used_mb": proxy.resident()}
            return {"version": proxy.version(), **figures}


class Grown(Limit):
    """Many of them cost at most so many times what few cost."""

    def __init__(self, many, few, most):
        super().__init__("cpu_us", most, few)
        self.many = many

    def judge(self, runs):
        found = super().judge({**runs, OURS: runs[self.many]})
        return {**found, "figure": f"cpu_us of {self.many} routes", "beside": f"{self.peers[0]} routes"}


def many_routes(ground, size, first_port):
    """Ours with so many routes, each with a token of its own that we sign."""
    proxy = Countersign(ground, "tls")
    entries = []
    for number in range(size):
        # No two routes may have one authority.
        name, authority = f"r{number}", ManyOrigins.authority(number, first_port)
        host = authority.partition(":")[0]
        entries += [token(name, signed(ground, name, "1h"), host=host), proxy.route(name, authority)]
    proxy.entries = "".join(entries)
    return proxy


def spread(folder, size):
    """A script for wrk: each request asks the next route."""
    script = folder / "spread.lua"
    script.write_text(
        f"""
local requests, next = {{}}, 0
function init()
  for number = 1, {size} do requests[number] = wrk.format("GET", "/r" .. number - 1 .. "/") end
end
function request()
  next = next % {size} + 1
  return requests[next]
end
""",
        encoding="utf-8",
    )
    return script


def first_answer(proxy, path, patience=30):
    """Milliseconds from now until the upstream's answer comes through."""
    start = time.monotonic()
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                return (time.monotonic() - start) * 1e3
            trouble = f"status {answer.status}"
        except (OSError, http.client.HTTPException) as error:
            trouble = error
        finally:
            connection.close()
        if time.monotonic() - start > patience or proxy.process.poll() is not None:
            raise Failed(f"{proxy.name} gives no answer: {trouble}\n{proxy.output()[-1000:]}")
        time.sleep(0.0005)


CPU = "cpu_us"

ROWS = [
    Row(
        "tls", "HTTP/1.1 to TLS, small", "tls",
        Limit(CPU, 0.95, "nginx"), Limit(CPU, 0.32, "envoy"), Limit(CPU, 0.47, "pingora"), also=["haproxy"],
    ),
    Row("plain", "HTTP/1.1 to plain, small", "plain", Limit(CPU, 1.15, "nginx"), also=["haproxy", "envoy"]),
    Latency("p99", "HTTP/1.1 to TLS, 20,000 requests a second", "tls", Limit("p99", 1.5, "nginx", "haproxy")),
    Row("resumed", "a resumed TLS handshake for each request", "resumed", Limit(CPU, 0.60, "nginx"), connections=16),
    Row("full", "a full TLS handshake for each request", "full", Limit(CPU, 0.70, "envoy"), connections=16),
    Http2(
        "h2", "HTTP/2 to HTTP/2 over TLS, small", "h2",
        Limit(CPU, 1.35, "haproxy"), Limit(CPU, 0.5, "envoy"), also=["pingora"],
    ),
    Row("64k", "64 KiB from TLS", "tls", Limit(CPU, 0.95, "haproxy"), path="/64k", connections=16),
    Row("10m-tls", "10 MiB from TLS", "tls", Limit(CPU, 1.05, "envoy"), path="/10m", connections=4),
    Row("10m-plain", "10 MiB from plain", "plain", Limit(CPU, 0.70, "haproxy"), path="/10m", connections=4),
    Intercepted(
        "intercept-h1", "HTTP/1.1 in tunnels that are looked into, small", "tls", also=["envoy", "mitmproxy"],
        connections=32,
    ),
    Intercepted(
        "intercept-h2", "HTTP/2 in tunnels that are looked into, small", "h2", also=["envoy", "mitmproxy"],
        connections=4,
    ),
    Handshakes(
        "intercept-new", "HTTP/1.1, a tunnel and its handshake for each request", "tls", also=["envoy", "mitmproxy"],
        connections=32,
    ),
    WebSocket(
        "websocket", "WebSocket over TLS, a message of 64 bytes and its echo", "websocket", also=["nginx", "envoy"],
        connections=32,
    ),
    Grpc("grpc", "gRPC over TLS, a unary call", "h2", also=["haproxy", "envoy"]),
    Scrubbed("scrub-64k", "64 KiB from TLS, `scrub = true`", "tls", path="/64k", connections=16),
    Scrubbed("scrub-10m", "10 MiB from TLS, `scrub = true`", "tls", path="/10m", connections=4),
    Memory(
        "memory", "resident memory: at rest, with 1,000 used connections", "tls",
        Limit("idle_mb", 12), Limit("used_mb", 28),
    ),
    Start("start", "from the start to the first answer, over TLS", "tls", Limit("start_ms", 45)),
    Growth("growth", "HTTP/1.1 to TLS, small, by number of routes and tokens", 1.10),
]  # fmt: skip


def tell(row, number, of, name, figures):
    parts = [f"{key} {figures[key]:.1f}" for key in row.figures]
    others = f"  others {figures['others']:.0%}" if "others" in figures else ""
    say(f"{row.name:10} {number}/{of} {name:12} {'  '.join(parts)}{others}")
