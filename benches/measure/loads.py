"""What is sent through a proxy. A load in which one request fails measures nothing, and says so."""

import json
import re
import socket
import subprocess
import sys

from measure.machine import OUTPUT, built, command, pinned
from measure.servers import WEBSOCKET, Failed

BUILT = OUTPUT / "release"


def wrk(proxy, seconds, path="/", connections=64, script=None):
    """Requests that were answered. A closed loop: each connection asks again when it has its answer."""
    words = [command("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s"]
    words += ["-s", str(script)] if script else []
    printed = run(proxy, [*words, proxy.url(path)])
    failed = re.search(r"Non-2xx.*|Socket errors.*", printed)
    if failed:
        raise Failed(f"{proxy.name}: {failed.group(0)}")
    return int(re.search(r"(\d+) requests in", printed).group(1))


def h2load(proxy, options, path="/"):
    """Requests that were answered, over HTTP/2 unless the options say `--h1`."""
    printed = run(proxy, [command("h2load"), "-t1", *options, proxy.url(path)])
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (\w+)(?:,|$)", printed, re.MULTILINE)}
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", printed)
    others = sum(int(count) for count in statuses.groups()[1:]) if statuses else 1
    if counts.get("failed") != 0 or counts.get("errored") != 0 or others:
        raise Failed(f"{proxy.name}: {printed[-600:]}")
    return counts["succeeded"]


def grpc(proxy, calls):
    """Unary calls that were answered, each with a short message."""
    message = proxy.folder / "message"
    message.write_bytes(b"\0\0\0\0\x05hello")
    fields = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    return h2load(proxy, ["-c4", "-m16", f"-n{calls}", f"-d{message}", *fields], "/grpc")


def websocket(proxy, connections, messages):
    """Messages that were said and heard again."""
    words = [sys.executable, str(WEBSOCKET), "clients", str(proxy.port), f"{proxy.base}/", str(connections), str(messages)]
    return int(run(proxy, words))


def rate(proxy, per_second, seconds, path="/", connections=64):
    """Latencies in microseconds, of an open loop: requests are due whether or not earlier ones were answered."""
    return json.loads(run(proxy, rate_words(proxy, per_second, seconds, path, connections)))


def rate_words(proxy, per_second, seconds, path="/", connections=64):
    words = {
        "port": proxy.port,
        "path": proxy.base + path,
        "connections": connections,
        "rate": per_second,
        "seconds": seconds,
    }
    options = [word for key, value in words.items() for word in (f"--{key}", str(value))]
    return [built(BUILT / "rate", "make bench"), *options]


def connect(proxy, count):
    """Connections that nothing has been sent on."""
    return [socket.create_connection(("127.0.0.1", proxy.port), 10) for _ in range(count)]


def visit(proxy, connections, paths):
    """One request for each path, one at a time on each of these connections."""
    for start in range(0, len(paths), len(connections)):
        asked = list(zip(connections, paths[start:]))
        for connection, path in asked:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\n\r\n".encode())
        for connection, path in asked:
            received = b""
            while b'"data"' not in received:
                chunk = connection.recv(65536)
                received += chunk
                if not chunk or b" 200 " not in received[:20]:
                    raise Failed(f"{proxy.name}: {path}: {received[:200]}")


def run(proxy, words):
    done = subprocess.run(pinned(proxy.ground.load_core, words), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"{proxy.name}: {words[0]}: {done.stdout[-300:]}{done.stderr[-300:]}")
    return done.stdout
