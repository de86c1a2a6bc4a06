"""A token that is quarantined under load: how long until that is acknowledged, and that nothing leaves with it from then on."""

import hashlib
import http.client
import json
import secrets
import socket
import statistics
import threading
import time

from measure import loads
from measure.proxies import Countersign
from measure.rotation import Judge, entries
from measure.servers import Failed

PER_SECOND = 10_000
# From the call to its answer.
WITHIN_MS = 10
# What has left by then has arrived: both ends of the wire are this machine.
ARRIVED_SECONDS = 0.05
# So long it is looked for what leaves after that.
WATCHED_SECONDS = 0.3


class Load(threading.Thread):
    """Requests at a fixed rate, answered well or refused."""

    def __init__(self, proxy, seconds):
        super().__init__()
        self.proxy, self.seconds, self.outcome, self.trouble = proxy, seconds, None, None

    def run(self):
        try:
            self.outcome = loads.rate(self.proxy, PER_SECOND, self.seconds)
        except Failed as error:
            self.trouble = error


class Operator:
    """Calls of the admin API, over its socket."""

    def __init__(self, socket_path, key):
        self.path, self.key = str(socket_path), key

    def call(self, what):
        """How long the call took, in milliseconds."""
        body = json.dumps({"reason": "it is measured"})
        fields = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30)
        connection.sock.connect(self.path)
        try:
            start = time.monotonic()
            connection.request("POST", f"/v1/tokens/r0/{what}", body, fields)
            answer = connection.getresponse()
            text = answer.read()
            took = (time.monotonic() - start) * 1e3
        finally:
            connection.close()
        if answer.status != 200:
            raise Failed(f"{what}: {answer.status} {text[:300]}")
        return took


def quarantines(ground, count):
    """What was found, and whether it is what must be."""
    with Judge(ground, 1) as judge:
        proxy = Countersign(ground, "plain", proxy="watch = false")
        key = secrets.token_hex(32)
        digest = hashlib.sha256(key.encode()).hexdigest()
        people = f'[[operator]]\nname = "bench"\nkey = "sha256:{digest}"\nroles = ["responder", "approver"]\n'
        door = proxy.folder / "admin.sock"
        people += f'[admin]\nlisten = "unix:{door}"\n'
        proxy.entries = entries(proxy, judge, 1, "1h", "at = 0.7") + people
        with proxy:
            proxy.base = "/r0"
            loads.visit(proxy, loads.connect(proxy, 1), ["/r0/"])
            operator = Operator(door, key)
            took, late, before = [], 0, judge.counts()["requests"]
            # Half a second of load before each, and what is waited for.
            load = Load(proxy, round(count * (0.5 + ARRIVED_SECONDS + WATCHED_SECONDS + 0.1)) + 3)
            load.start()
            for _ in range(count):
                time.sleep(0.5)
                took.append(operator.call("quarantine"))
                time.sleep(ARRIVED_SECONDS)
                arrived = judge.counts()["requests"]
                time.sleep(WATCHED_SECONDS)
                late += judge.counts()["requests"] - arrived
                operator.call("release")
            load.join()
            carried = judge.counts()["requests"] - before
    if load.trouble:
        raise load.trouble
    took.sort()
    figures = {
        "quarantines": count,
        "asked_per_second": PER_SECOND,
        "requests": load.outcome["requests"],
        "carried": carried,
        "late": late,
        "acknowledged_median_ms": round(statistics.median(took), 2),
        "acknowledged_p95_ms": round(took[int(len(took) * 0.95)], 2),
        "acknowledged_slowest_ms": round(took[-1], 2),
    }
    bars = {
        "no request leaves with the token after the acknowledgement": late == 0,
        f"acknowledged within {WITHIN_MS} ms in the median": statistics.median(took) <= WITHIN_MS,
    }
    return figures, bars
