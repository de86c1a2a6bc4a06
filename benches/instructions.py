#!/usr/bin/env python3
"""Counts the instructions that a request costs in user space, with callgrind: ours beside nginx.

What a start costs is left out: counting begins when the proxy has served for a while. The figure does not depend on
what else the machine does, and so tells small changes apart. It says nothing of the kernel, where most of a request's
time goes.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from measure import loads
from measure.machine import ROOT, built, command, raise_descriptors
from measure.proxies import PROXIES
from measure.servers import Failed, Ground, say


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ways", type=lambda text: text.split(","), default=["plain", "tls"], help="plain,tls")
    parser.add_argument(
        "--proxies", type=lambda text: text.split(","), default=["nginx", "countersign"], help="also haproxy"
    )
    parser.add_argument("--requests", type=int, default=8000, help="to count for each (8000)")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/countersign", help="the proxy to measure")
    options = parser.parse_args()
    built(options.binary, "make bench")
    raise_descriptors()
    found = {}
    with Ground(options.binary) as ground:
        for way in options.ways:
            for name in options.proxies:
                found.setdefault(name, {})[way] = count(ground, name, way, options.requests)
                say(f"{name} {way}: {found[name][way]:,.0f} instructions a request")
    print("| proxy | " + " | ".join(options.ways) + " |\n|" + "---|" * (len(options.ways) + 1))
    for name, ways in found.items():
        print(f"| {name} | " + " | ".join(f"{ways[way]:,.0f}" for way in options.ways) + " |")
    print(json.dumps({"instructions_per_request": found}))
    return 0


def count(ground, name, way, requests):
    """Instructions for each request."""
    with under_callgrind(PROXIES[name])(ground, way) as proxy:
        proxy.check()
        load(proxy, 500)
        control(proxy, "--zero")
        load(proxy, requests)
        control(proxy, "--dump")
        dumped = Path(f"{proxy.counts}.1")
        totals = [
            line.split()[1] for line in dumped.read_text().splitlines() if line.startswith(("summary:", "totals:"))
        ]
    return int(totals[-1]) / requests


def load(proxy, requests):
    loads.h2load(proxy, ["--h1", "-c16", f"-n{requests}"])


def control(proxy, what):
    done = subprocess.run(
        [command("callgrind_control"), what, str(proxy.pid)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or "OK" not in done.stdout:
        raise Failed(f"callgrind_control {what}: {done.stdout}{done.stderr}")


def under_callgrind(kind):
    class Counted(kind):
        """One process, so that one file has all counts."""

        def command(self):
            self.counts = self.folder / f"{self.name}-{self.way}.callgrind"
            words = super().command()
            single = ["-g", "master_process off;"] if self.name == "nginx" else []
            return [command("valgrind"), "--tool=callgrind", "--demangle=no", f"--callgrind-out-file={self.counts}", *words, *single]

    return Counted


if __name__ == "__main__":
    sys.exit(main())
