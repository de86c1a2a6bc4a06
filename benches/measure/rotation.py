"""Rotation under load: no request fails, and none carries a token that has expired or that was replaced."""

import json
import re
import subprocess
import time
import urllib.request

from measure.loads import BUILT, connect, visit
from measure.machine import built, command, free_port, pinned
from measure.proxies import Countersign, signed, token
from measure.servers import Failed, Server

# What is rotated each five seconds is not used up within three of them: 200 requests a second of each connection.
CONNECTIONS = 50
PACE = 200

# A token that we sign is rotated five times a second at most, however short its life and early its rotation.
FAST_TOKENS = 20


class Judge(Server):
    """The origin that judges the token of each request."""

    def __init__(self, ground, addresses):
        super().__init__("judge", ground.folder, ground.load_core, free_port())
        self.addresses = addresses

    def command(self):
        program = built(BUILT / "origin", "make endurance")
        return [program, "--port", str(self.port), "--addresses", str(self.addresses)]

    def counts(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/counts", timeout=10) as answer:
            return json.load(answer)


class Jealous(Server):
    """An issuer and its API, where each token makes the one before void."""

    def __init__(self, ground, life):
        super().__init__("jealous", ground.folder, ground.load_core, free_port())
        self.life = life

    def command(self):
        program = built(BUILT / "jealous", "make endurance")
        return [program, "--port", str(self.port), "--life", str(self.life)]

    def counts(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/counts", timeout=10) as answer:
            return json.load(answer)


def exclusive(ground, requests):
    """One token, each of whose generations makes the one before void, rotated every five seconds: nobody sees a 401.

    The requests come at a pace, so that there are as many rotations as seconds by five, however fast the machine is.
    """
    with Jealous(ground, life=10) as jealous:
        proxy = Countersign(ground, "plain")
        secret = ground.folder / "jealous-secret"
        secret.write_text("secret\n")
        source = (
            f'kind = "client_credentials", token_url = "http://127.0.0.1:{jealous.port}/token", '
            f'client_id = "load", client_secret = "file:{secret.name}"'
        )
        rotation = 'rotation = { mode = "exclusive", single_instance = true, at = 0.5, jitter = 0.0 }\n'
        made = token("r0", source, rotation, host="127.0.0.1")
        proxy.entries = made + proxy.route("r0", f"127.0.0.1:{jealous.port}")
        with proxy:
            visit(proxy, connect(proxy, 1), ["/r0/"])
            rotated, start = proxy.metric("rotations_total", outcome="success"), time.monotonic()
            answered, failed = load(proxy, requests, ["/r0/"], [f"-c{CONNECTIONS}", f"--rps={PACE}"])
            seconds = time.monotonic() - start
            rotations = proxy.metric("rotations_total", outcome="success") - rotated
        counts = jealous.counts()
    figures = {
        "requests": requests,
        "answered": answered,
        "failed": failed,
        "refused": counts["refused"],
        "rotations": int(rotations),
        "seconds": round(seconds, 1),
        "per_second": round(answered / seconds),
    }
    bars = {
        "every request is answered well": answered == requests and failed == 0,
        "none with a token that is void": counts["refused"] == 0,
        "rotated every five seconds": rotations >= 0.8 * seconds / 5 - 1,
        "asked at the pace": answered / seconds >= 0.9 * CONNECTIONS * PACE,
    }
    return figures, bars


def each_second(ground, requests):
    """One token, which is rotated once a second.

    A JWT says whole seconds: one of 3 s that is signed at a fraction f of a second lives for 3 - f, and is replaced
    after 0.4 of that. This settles at f = 0.5, and so at one second.
    """
    return rotate(ground, requests, 1, "3s", "at = 0.4, jitter = 0.0", per_second=1)


def each_hundredth(ground, requests):
    """Twenty tokens, each of which is rotated five times a second: one rotation every ten milliseconds."""
    return rotate(ground, requests, FAST_TOKENS, "2s", "at = 0.1, jitter = 0.0", per_second=5 * FAST_TOKENS)


def rotate(ground, requests, tokens, lifetime, rotation, per_second):
    """What was found, and whether it is what must be."""
    with Judge(ground, tokens) as judge:
        proxy = Countersign(ground, "plain")
        proxy.entries = entries(proxy, judge, tokens, lifetime, rotation)
        with proxy:
            paths = [f"/r{number}/" for number in range(tokens)]
            visit(proxy, connect(proxy, 1), paths)
            rotated, start = proxy.metric("rotations_total", outcome="success"), time.monotonic()
            answered, failed = load(proxy, requests, paths)
            seconds = time.monotonic() - start
            rotations = proxy.metric("rotations_total", outcome="success") - rotated
            resident = proxy.resident()
        counts = judge.counts()
    figures = {
        "requests": requests,
        "answered": answered,
        "failed": failed,
        **{what: counts[what] for what in ["missing", "stale", "superseded", "tokens"]},
        "rotations": int(rotations),
        "seconds": round(seconds, 1),
        "per_second": round(answered / seconds),
        "rotated_each_ms": round(seconds * 1e3 / max(rotations, 1), 1),
        "resident_mb": round(resident, 1),
    }
    bars = {
        "every request is answered": answered == requests and failed == 0,
        "none without a token": counts["missing"] == 0,
        "none with one that has expired": counts["stale"] == 0,
        "none with one that was replaced a second ago": counts["superseded"] == 0,
        "rotated as often as it should": rotations >= 0.9 * per_second * seconds - 1,
    }
    return figures, bars


def entries(proxy, judge, tokens, lifetime, rotation):
    made = []
    for number in range(tokens):
        name, address = f"r{number}", f"127.0.0.{number + 1}"
        source = signed(proxy.ground, name, lifetime)
        made.append(token(name, source, f"rotation = {{ {rotation} }}\n", host=address))
        made.append(proxy.route(name, f"{address}:{judge.port}"))
    return "".join(made)


def load(proxy, requests, paths, pace=("-c64",)):
    """How many were answered well, and how many were not."""
    uris = proxy.folder / "uris"
    uris.write_text("".join(f"http://127.0.0.1:{proxy.port}{path}\n" for path in paths))
    words = [command("h2load"), "--h1", "-t1", *pace, f"-n{requests}", "-i", str(uris)]
    printed = subprocess.run(pinned(proxy.ground.load_core, words), capture_output=True, text=True, check=False).stdout
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", printed)
    if counts is None:
        raise Failed(f"h2load: {printed[-500:]}")
    succeeded, *others = (int(count) for count in counts.groups())
    return succeeded, requests - succeeded + sum(others[1:])
