"""Reloads under load: of good files and of broken ones in turn. No request fails, and each file is judged rightly."""

import signal
import threading
import time

from measure import loads
from measure.proxies import Countersign, signed, token
from measure.servers import Failed

PER_SECOND = 2000
# How much more memory may be resident in the end.
GROWTH_MB = 32


class Load(threading.Thread):
    """Requests at a fixed rate until told to stop, in spans of a few seconds."""

    SPAN_SECONDS = 5

    def __init__(self, proxy):
        super().__init__()
        self.proxy, self.stopping = proxy, threading.Event()
        self.spans, self.trouble = [], None

    def run(self):
        try:
            while not self.stopping.is_set():
                self.spans.append(loads.rate(self.proxy, PER_SECOND, self.SPAN_SECONDS))
        except Failed as error:
            self.trouble = error

    def finish(self):
        self.stopping.set()
        self.join()
        if self.trouble:
            raise self.trouble


def reloads(ground, count):
    """What was found, and whether it is what must be. Every second file is broken."""
    # Each file is judged once, when it is asked for, and not also because it has changed.
    proxy = Countersign(ground, "plain", proxy="watch = false")
    proxy.entries = good(proxy, 0)
    with proxy:
        loads.visit(proxy, loads.connect(proxy, 1), ["/r0/"])
        proxy.base = "/r0"
        load = Load(proxy)
        load.start()
        start, resident, misjudged, slowest = time.monotonic(), proxy.resident(), 0, 0.0
        try:
            before = judged(proxy)
            for number in range(1, count + 1):
                broken = number % 2 == 0
                proxy.write((BROKEN[number // 2 % len(BROKEN)] if broken else "") + good(proxy, number))
                asked = time.monotonic()
                proxy.process.send_signal(signal.SIGHUP)
                after = await_judgement(proxy, before)
                slowest = max(slowest, time.monotonic() - asked)
                expected = (before[0] + (not broken), before[1] + broken)
                misjudged += after != expected or proxy.metric("config_reload_success") != (not broken)
                before = after
            seconds = time.monotonic() - start
            # The last good file is the one in force.
            last = count - (count % 2 == 0)
            loads.visit(proxy, loads.connect(proxy, 1), [f"/spare-{last % 10}/"])
        finally:
            load.finish()
        grown = proxy.resident() - resident
    spans = load.spans
    figures = {
        "reloads": count,
        "taken": int(before[0]),
        "refused": int(before[1]),
        "misjudged": misjudged,
        "requests": sum(span["requests"] for span in spans),
        "failed": sum(span["failed"] for span in spans),
        "p99_worst_us": max(span["p99"] for span in spans),
        "seconds": round(seconds, 1),
        "reload_ms": round(seconds * 1e3 / count, 1),
        "reload_slowest_ms": round(slowest * 1e3, 1),
        "resident_mb": round(resident + grown, 1),
        "grown_mb": round(grown, 1),
    }
    expected = ((count + 1) // 2, count // 2)
    bars = {
        "the others lose no request": figures["failed"] == 0,
        "each good file is taken, each broken one refused": misjudged == 0 and before == expected,
        f"memory grows by at most {GROWTH_MB} MB": grown <= GROWTH_MB,
    }
    return figures, bars


def good(proxy, number):
    """A config that differs from the one before: in a route, and in each tenth also in the token."""
    source = signed(proxy.ground, f"generation-{number // 10}", "1h")
    # No two routes may have one authority.
    spare = proxy.route(f"spare-{number % 10}", f"localhost:{proxy.upstream_port}").replace(
        f'token = "spare-{number % 10}"\n', ""
    )
    return token("r0", source) + proxy.route("r0") + spare


# Before a good config: a text that is no TOML, a key that nobody knows, a token that does not say who owns it.
BROKEN = ["[[route]\n", "[[rout]]\n", '[[token]]\nname = "nobody"\n']


def judged(proxy):
    """Good files that were taken, broken ones that were refused."""
    # One scrape for both.
    samples = proxy.samples()
    return tuple(samples.get(f'audit_records_total{{event="{event}"}}', 0.0) for event in ["reload", "reload_refused"])


def await_judgement(proxy, before):
    deadline = time.monotonic() + 20
    while True:
        after = judged(proxy)
        if after != before:
            return after
        if time.monotonic() > deadline:
            raise Failed(f"a reload was not judged within 20 s:\n{proxy.output()[-1000:]}")
        time.sleep(0.002)
