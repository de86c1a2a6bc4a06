"""Clients that hold on to what they have: heads that stall, bodies that drip, answers that nobody reads; beside clients
that behave. Those must not notice, and the proxy must get rid of the others by itself."""

import contextlib
import json
import os
import selectors
import socket
import subprocess
import time

from measure import loads
from measure.machine import pinned
from measure.proxies import Countersign
from measure.servers import Failed, say

# The limits are those that docs/configuration.md tells: 10,000 connections, beyond which the one that has rested
# longest makes room; 10 s for a head; 30 s between two pieces of a body, and for a client to take some of its answer; a
# body of known length comes at a kilobyte a second after its first 10 s of waiting, or is cut.
GONE_WITHIN_SECONDS = 60
DRIP_SECONDS = 2.0
PER_SECOND = 2000
CONNECTIONS = 64


class Crowd:
    """Connections to a proxy, by what is wrong with them."""

    def __init__(self, proxy, counts):
        self.proxy, self.counts = proxy, counts
        self.selector = selectors.EpollSelector()
        self.open = {kind: set() for kind in counts}
        self.gone_at = {}
        self.start = time.monotonic()

    def come(self):
        host = f"Host: 127.0.0.1:{self.proxy.port}\r\n"
        greetings = {
            "heads": f"GET /bench/ HTTP/1.1\r\n{host}X-Stalled: ",
            "drips": f"POST /bench/upload HTTP/1.1\r\n{host}Content-Length: 1000000\r\n\r\n",
            "deaf": f"GET /bench/1m HTTP/1.1\r\n{host}\r\n",
        }
        for kind, count in self.counts.items():
            for _ in range(count):
                self.open[kind].add(self.connect(kind, greetings[kind].encode()))
            say(f"crowd: {count} {kind} after {self.age():.1f} s")

    def connect(self, kind, greeting):
        connection = socket.socket()
        if kind == "deaf":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", self.proxy.port))
        # Whoever finds no room is sent away without being listened to.
        with contextlib.suppress(ConnectionError):
            connection.sendall(greeting)
        connection.setblocking(False)
        # The deaf cannot tell when they are sent away: nobody reads for them.
        if kind != "deaf":
            self.selector.register(connection, selectors.EVENT_READ, kind)
        return connection

    def look(self, seconds):
        """Waits at most so long, and notes who was sent away."""
        for key, _ in self.selector.select(seconds):
            try:
                gone = not key.fileobj.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                gone = True
            if gone:
                self.selector.unregister(key.fileobj)
                self.open[key.data].discard(key.fileobj)
                key.fileobj.close()
                self.gone_at[key.data] = round(self.age(), 1)

    def drip(self):
        for connection in self.open["drips"]:
            with contextlib.suppress(OSError):
                connection.send(b"x")

    def age(self):
        return time.monotonic() - self.start

    def when_gone(self, kind):
        """Seconds; nothing as long as some are there."""
        return self.gone_at.get(kind) if not self.open[kind] else None

    def leave(self):
        for connections in self.open.values():
            for connection in connections:
                connection.close()


def crowd(ground, counts, seconds):
    """What was found, and whether it is what must be. `counts` are connections by kind: heads, drips, deaf."""
    with on_core(ground.load_core), Countersign(ground, "plain") as proxy:
        proxy.check()
        loads.rate(proxy, PER_SECOND, 1)
        without = loads.rate(proxy, PER_SECOND, seconds)
        resident = {"resident_before_mb": round(proxy.resident(), 1)}
        load = start_load(proxy, seconds)
        among = Crowd(proxy, counts)
        among.come()
        came = among.age()
        most = stay(proxy, among, load, came + GONE_WITHIN_SECONDS)
        resident |= {"resident_most_mb": round(most["resident"], 1), "resident_after_mb": round(proxy.resident(), 1)}
        among.leave()
    printed, _ = load.communicate()
    if load.returncode != 0:
        raise Failed(f"the load beside the crowd failed: {printed}")
    beside = json.loads(printed)
    gone = most["gone"]
    figures = {
        **counts,
        "came_s": round(came, 1),
        "others_per_second": PER_SECOND,
        "failed": beside["failed"] + without["failed"],
        **{
            f"{key}_{when}_us": found[key]
            for key in ["p50", "p99"]
            for when, found in [("without", without), ("with", beside)]
        },
        "connections_most": int(most["connections"]),
        **resident,
        "heads_gone_s": among.when_gone("heads"),
        "drips_gone_s": among.when_gone("drips"),
        "all_gone_s": gone and round(gone, 1),
    }
    most_p99 = max(2 * without["p99"], without["p99"] + 2000)
    bars = {
        "the others lose no request": figures["failed"] == 0,
        "the others' p99 at most doubles, or grows by 2 ms": beside["p99"] <= most_p99,
        f"all are gone within {GONE_WITHIN_SECONDS} s": gone is not None,
    }
    return figures, bars


@contextlib.contextmanager
def on_core(core):
    """This program is a part of the load."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [core])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start_load(proxy, seconds):
    words = pinned(proxy.ground.load_core, loads.rate_words(proxy, PER_SECOND, seconds, connections=CONNECTIONS))
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def stay(proxy, among, load, most_age):
    """Until all are gone, or for so long: the most that the proxy held, and when it had got rid of them."""
    most = {"resident": 0.0, "connections": 0.0, "gone": None}
    looked = dripped = 0.0
    while among.age() < most_age:
        among.look(0.1)
        loading = load.poll() is None
        if loading and among.age() - dripped > DRIP_SECONDS:
            dripped = among.age()
            among.drip()
        if among.age() - looked > 0.5:
            looked = among.age()
            connections = proxy.metric("connections")
            most["resident"] = max(most["resident"], proxy.resident())
            most["connections"] = max(most["connections"], connections)
            if connections <= (CONNECTIONS if loading else 0):
                most["gone"] = most["gone"] or among.age()
                if not loading:
                    break
    return most
