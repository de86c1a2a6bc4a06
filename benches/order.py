#!/usr/bin/env python3
"""Writes link/order.txt: the functions that a proxy runs when it starts and serves, as the linker is to lay them side by side.

The kernel maps a program's code sixteen pages at a time. Where the few functions that run lie scattered among those that do
not, most of the program is resident; side by side they are a third of it. `build.rs` hands the list to the linker. A
function that is not in it, or whose name has changed, stands where it would have stood: an old list costs memory, and
nothing else. The names have a hash in them, of the dependencies and of the profile too: after a change of Cargo.lock or of
`[profile.release]` the list is old.

Functions that serve requests come first, by what they cost; then those of a start. `make order` builds what is recorded.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from instructions import control, load, under_callgrind
from measure import loads
from measure.machine import ROOT, built, command, raise_descriptors
from measure.proxies import PROXIES, signed, token
from measure.servers import Ground, say

LIST = ROOT / "link/order.txt"

# How a proxy is spoken to, and what is asked of it.
WAYS = {
    "plain": lambda proxy: load(proxy, 300),
    "tls": lambda proxy: load(proxy, 300),
    "resumed": lambda proxy: load(proxy, 30),
    "h2": lambda proxy: loads.h2load(proxy, ["-c2", "-m8", "-n300"]),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/countersign", help="one that has its names")
    options = parser.parse_args()
    built(options.binary, "make order")
    raise_descriptors()
    known = functions(options.binary)
    if not known:
        sys.exit(f"{options.binary} has no names of functions: `make order` builds one that has them")
    starting, serving = Counter(), Counter()
    with Ground(options.binary) as ground:
        for way, ask in WAYS.items():
            say(f"recording {way}")
            for cost, dump in zip([starting, serving], record(ground, way, ask)):
                cost.update(costs(dump))
    ordered = [name for cost in [serving, starting] for name, _ in cost.most_common() if name in known]
    ordered = list(dict.fromkeys(ordered))
    LIST.write_text("".join(f"{name}\n" for name in ordered), encoding="utf-8")
    say(f"{len(ordered)} of {len(known)} functions, {sum(known[name] for name in ordered) // 1024} KiB: {LIST}")
    return 0


def record(ground, way, ask):
    """What callgrind counted of a start, and of what was asked after it."""
    proxy = under_callgrind(PROXIES["countersign"])(ground, way)
    # Beside the token that is measured with, one that is made and replaced meanwhile.
    rotated = token("rotated", signed(ground, "rotated", "3s"), "rotation = { at = 0.5, jitter = 0.0 }\n")
    proxy.entries = token("bench", 'kind = "env", name = "BENCH_TOKEN"') + proxy.route("bench") + rotated
    with proxy:
        control(proxy, "--dump")
        proxy.check()
        ask(proxy)
        proxy.ask("/metrics")
        control(proxy, "--dump")
        return [Path(f"{proxy.counts}.{number}").read_text(errors="replace") for number in [1, 2]]


def costs(dump):
    """Instructions of each function by itself, by its mangled name."""
    names, found = {}, Counter()
    function, called = None, False
    for line in dump.splitlines():
        if named := re.match(r"c?fn=\((\d+)\)(?: (.*))?$", line):
            number, name = named.groups()
            if name:
                # A function that calls itself is counted by depth.
                names[number] = name.partition("'")[0]
            if line.startswith("fn="):
                function = names[number]
        elif line.startswith("calls="):
            called = True
        elif re.match(r"[+\-*\d]", line):
            if not called:
                found[function] += int(line.split()[1])
            called = False
    return found


def functions(binary):
    """Sizes of the binary's functions, by mangled name."""
    listed = subprocess.run(
        [command("nm"), "--print-size", "--radix=d", str(binary)], capture_output=True, text=True, check=False
    ).stdout
    rows = (line.split() for line in listed.splitlines())
    return {row[3]: int(row[1]) for row in rows if len(row) == 4 and row[2] in "tT"}


if __name__ == "__main__":
    sys.exit(main())
