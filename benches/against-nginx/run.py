#!/usr/bin/env python3
"""Measures the proxy beside nginx: what one request costs it, in microseconds of CPU.

Both do the same work: take a request on a connection that is kept alive, add an Authorization header, and pass it on to
an origin on a connection that is kept alive and, in the main case, encrypted and verified. One proxy at a time runs on one
core; the origin and the load generator share another. Each measurement is a fresh start of a proxy, and the two take turns,
so that what changes on the machine meets both. See benches/README.md.

The result is a table in Markdown on standard output; progress goes to standard error.
"""

import argparse
import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJiZW5jaCJ9.c2lnbmF0dXJlLWhlcmU"
ANSWER = '{"object":"ok","id":"0123456789abcdef","data":[1,2,3,4]}'
# The share of a core that others may use before a measurement is repeated.
DISTURBED = 0.12
TRIES = 4


def main():
    options = arguments()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("run.py: two cores are needed: one for the proxy, one for the origin and the load")
    proxy_core, load_core = cores[:2]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        folder = Path(folder)
        make_certificates(folder)
        origin = stack.enter_context(Origin(folder, load_core))
        proxies = [Nginx(folder, proxy_core, origin, options.case), Countersign(folder, proxy_core, origin, options)]
        results = {proxy.name: [] for proxy in proxies}
        for restart in range(options.restarts):
            # The one that goes first changes, so that neither always finds the machine as the other left it.
            for proxy in proxies if restart % 2 == 0 else reversed(proxies):
                with proxy:
                    proxy.check()
                    result = undisturbed(proxy, origin, load_core, options)
                results[proxy.name].append(result)
                say(f"{restart + 1}/{options.restarts} {proxy.name:12} {result}")
        print(report(proxies, results, options))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", choices=["tls", "plain"], default="tls", help="how the origin is spoken to (tls)")
    parser.add_argument("--restarts", type=int, default=5, help="measurements of each proxy (5)")
    parser.add_argument("--seconds", type=int, default=5, help="length of a measurement (5)")
    parser.add_argument("--connections", type=int, default=64, help="connections of the load generator (64)")
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--binary", type=Path, default=root / "target/release/countersign", help="the proxy to measure")
    options = parser.parse_args()
    if not options.binary.is_file():
        sys.exit(f"run.py: {options.binary} is not there: `make bench` builds it")
    for tool in ["nginx", "wrk", "openssl", "taskset"]:
        command(tool)
    return options


# Measuring.


class Result:
    """One measurement."""

    def __init__(self, requests, seconds, cpu_microseconds, p50, p99, foreign):
        self.cost = cpu_microseconds / requests
        self.rate = requests / seconds
        self.p50, self.p99, self.foreign = p50, p99, foreign

    def __str__(self):
        return (
            f"{self.cost:6.2f} us/request  {self.rate:8.0f} requests/s  "
            f"p50 {self.p50:.0f} us  p99 {self.p99:.0f} us  others {self.foreign:.0%}"
        )


def undisturbed(proxy, origin, core, options):
    """The least disturbed of a few tries; the first that was not disturbed ends them."""
    load(proxy, core, options, seconds=1)
    best = None
    for _ in range(TRIES):
        result = measure(proxy, origin, core, options)
        if best is None or result.foreign < best.foreign:
            best = result
        if best.foreign <= DISTURBED:
            break
    return best


def measure(proxy, origin, core, options):
    busy, own, cpu, start = busy_microseconds(), own_microseconds(), proxy.cpu(), time.monotonic()
    others = own + origin.cpu() + cpu
    requests, p50, p99 = load(proxy, core, options, options.seconds)
    seconds, used = time.monotonic() - start, proxy.cpu() - cpu
    others = own_microseconds() + origin.cpu() + proxy.cpu() - others
    foreign = max(0.0, busy_microseconds() - busy - others) / 1e6 / seconds
    return Result(requests, options.seconds, used, p50, p99, foreign)


def load(proxy, core, options, seconds):
    """Requests answered, and the latencies that half and 99 of 100 did not exceed, in microseconds."""
    wrk = [command("wrk"), "-t1", f"-c{options.connections}", f"-d{seconds}s", "--latency", proxy.url]
    printed = subprocess.run(pinned(core, wrk), capture_output=True, text=True, check=True).stdout
    failed = re.search(r"Non-2xx.*|Socket errors.*", printed)
    if failed:
        sys.exit(f"run.py: {proxy.name}: {failed.group(0)}: a load with failures measures nothing")
    requests = int(re.search(r"(\d+) requests in", printed).group(1))
    units = {"us": 1, "ms": 1e3, "s": 1e6}
    latency = {
        share: float(value) * units[unit] for share, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", printed)
    }
    return requests, latency["50"], latency["99"]


def process_tree(pid):
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += process_tree(int(child))
    return found


def cpu_microseconds(pid):
    """What all threads of a process and of its children have used, as the scheduler counts it."""
    nanoseconds = 0
    for process in process_tree(pid):
        for task in Path(f"/proc/{process}/task").iterdir():
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e3


def busy_microseconds():
    """What everybody has used."""
    user, nice, system, _, _, irq, softirq = [int(word) for word in Path("/proc/stat").read_text().split()[1:8]]
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK") * 1e6


def own_microseconds():
    """What this program and the load generators that have ended have used."""
    times = os.times()
    return (times.user + times.system + times.children_user + times.children_system) * 1e6


# What is measured.


class Server:
    """A process on one core, from `with` to the end of it."""

    def __init__(self, name, folder, core, port):
        self.name, self.folder, self.core, self.port = name, folder, core, port
        self.process = None

    def __enter__(self):
        output = open(self.folder / f"{self.name}.out", "w", encoding="utf-8")
        environment = {**os.environ, "BENCH_TOKEN": TOKEN}
        self.process = subprocess.Popen(
            pinned(self.core, self.command()), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
        deadline = time.monotonic() + 20
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                sys.exit(f"run.py: {self.name} did not start:\n{(self.folder / f'{self.name}.out').read_text()}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ready(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def cpu(self):
        return cpu_microseconds(self.process.pid)


class Origin(Server):
    def __init__(self, folder, core):
        super().__init__("origin", folder, core, free_port())
        self.ports = {"tls": self.port, "plain": free_port()}

    def command(self):
        locations = f"""
    location = / {{ return 200 '{ANSWER}\\n'; }}
    location = /echo {{ return 200 "$http_authorization"; }}"""
        return nginx(
            self,
            f"""
  default_type application/json;
  ssl_certificate {self.folder}/server.pem; ssl_certificate_key {self.folder}/server.key;
  ssl_protocols TLSv1.3;
  server {{ listen 127.0.0.1:{self.ports["tls"]} ssl backlog=4096; {locations}
  }}
  server {{ listen 127.0.0.1:{self.ports["plain"]} backlog=4096; {locations}
  }}""",
        )


class Proxy(Server):
    def __init__(self, name, folder, core, origin, case):
        super().__init__(name, folder, core, free_port())
        self.upstream_port = origin.ports[case]
        self.scheme = {"tls": "https", "plain": "http"}[case]
        self.url = f"http://127.0.0.1:{self.port}/bench/"

    def check(self):
        """That it does the work which is measured."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/bench/echo")
        answer = connection.getresponse()
        body = answer.read().decode()
        if answer.status != 200 or body != f"Bearer {TOKEN}":
            sys.exit(f"run.py: {self.name} does not attach the token: {answer.status} {body}")


class Nginx(Proxy):
    def __init__(self, folder, core, origin, case):
        super().__init__("nginx", folder, core, origin, case)

    def version(self):
        printed = subprocess.run([command("nginx"), "-v"], capture_output=True, text=True, check=True).stderr
        return printed.strip().rsplit("/", 1)[-1]

    def command(self):
        verified = f"""
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {self.folder}/ca.pem; proxy_ssl_verify_depth 2;
      proxy_ssl_name localhost; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;"""
        return nginx(
            self,
            f"""
  upstream origin {{
    server 127.0.0.1:{self.upstream_port};
    keepalive 512; keepalive_requests 1000000000; keepalive_timeout 600s;
  }}
  server {{ listen 127.0.0.1:{self.port} backlog=4096;
    location /bench/ {{
      proxy_pass {self.scheme}://origin/;
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host localhost;
      proxy_set_header Authorization "Bearer {TOKEN}";{verified if self.scheme == "https" else ""}
    }}
  }}""",
        )


class Countersign(Proxy):
    def __init__(self, folder, core, origin, options):
        super().__init__("countersign", folder, core, origin, options.case)
        self.binary = options.binary
        self.telemetry = free_port()

    def version(self):
        printed = subprocess.run([self.binary, "version"], capture_output=True, text=True, check=True).stdout
        return printed.strip().removeprefix("countersign ").splitlines()[0]

    def command(self):
        config = self.folder / "countersign.toml"
        tls = f'tls = {{ ca = "file:{self.folder}/ca.pem" }}' if self.scheme == "https" else ""
        # Everything that is on by default stays on, but the line in the log for each request: nginx writes none either.
        config.write_text(
            f"""
[proxy]
listen = ["127.0.0.1:{self.port}"]
workers = 1
[proxy.destinations]
allow = ["127.0.0.0/8"]
[telemetry]
listen = "127.0.0.1:{self.telemetry}"
log = {{ level = "warn", format = "text", access = false }}
[state]
dir = "{self.folder}/state"
[[token]]
name = "bench"
owner = "team-bench@example.com"
reason = "to measure"
scopes = ["bench"]
expires = "{time.strftime("%Y-%m-%d", time.gmtime(time.time() + 30 * 86400))}"
hosts = ["127.0.0.1"]
source = {{ kind = "env", name = "BENCH_TOKEN" }}
[[route]]
name = "bench"
upstream = "{self.scheme}://127.0.0.1:{self.upstream_port}"
token = "bench"
allow = ["GET /**"]
{tls}
""",
            encoding="utf-8",
        )
        return [str(self.binary), "run", "--config", str(config)]

    def ready(self):
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", self.telemetry, timeout=1)
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        return False


def nginx(server, http_section):
    """The command of an nginx with one worker, no access log, and connections that last."""
    config = server.folder / f"{server.name}.conf"
    config.write_text(
        f"""daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {server.folder}/{server.name}.pid;
error_log stderr error;
events {{ worker_connections 16000; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {server.folder}/{server.name}.body; proxy_temp_path {server.folder}/{server.name}.proxy;
  fastcgi_temp_path {server.folder}/{server.name}.f; uwsgi_temp_path {server.folder}/{server.name}.u;
  scgi_temp_path {server.folder}/{server.name}.s;
{http_section}
}}
""",
        encoding="utf-8",
    )
    return [command("nginx"), "-e", "stderr", "-p", str(server.folder), "-c", str(config)]


def make_certificates(folder):
    """A certificate authority, and a certificate of the origin."""

    def openssl(*words):
        subprocess.run([command("openssl"), *words], cwd=folder, capture_output=True, check=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=bench authority")
    openssl("req", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "server.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n")
    openssl(
        "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-out", "server.pem", "-days", "30", "-extfile", "server.ext",
    )  # fmt: skip


def pinned(core, words):
    return [command("taskset"), "-c", str(core), *words]


def command(name):
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        sys.exit(f"run.py: {name} is not installed: `make bench` installs it")
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Telling.


def report(proxies, results, options):
    def row(proxy):
        measured = results[proxy.name]
        cost = [result.cost for result in measured]
        medians = [statistics.median(getattr(result, what) for result in measured) for what in ["rate", "p50", "p99"]]
        return (
            f"| {proxy.name} {proxy.version()} | {statistics.median(cost):.2f} | {min(cost):.2f} - {max(cost):.2f} "
            f"| {medians[0]:.0f} | {medians[1]:.0f} | {medians[2]:.0f} |"
        )

    pairs = [ours.cost / theirs.cost for theirs, ours in zip(results["nginx"], results["countersign"])]
    medians = {name: statistics.median(result.cost for result in measured) for name, measured in results.items()}
    disturbed = max(result.foreign for measured in results.values() for result in measured)
    upstream = {"tls": "TLS 1.3, verified", "plain": "plain"}[options.case]
    lines = [
        f"HTTP/1.1 -> {upstream}, small answers: {options.restarts} restarts of {options.seconds} s each, "
        f"{options.connections} connections, medians.",
        "",
        "| proxy | CPU us/request | lowest - highest | requests/s | p50 us | p99 us |",
        "|---|---|---|---|---|---|",
        *[row(proxy) for proxy in proxies],
        "",
        f"Ratio to nginx: {medians['countersign'] / medians['nginx']:.2f} "
        f"({min(pairs):.2f} - {max(pairs):.2f} pair by pair).",
    ]
    if disturbed > DISTURBED:
        lines += ["", f"Disturbed: others used up to {disturbed:.0%} of a core meanwhile. Measure again."]
    return "\n".join(lines)


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
