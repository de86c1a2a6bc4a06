#!/usr/bin/env python3
"""What the proxy must endure: rotation, a crowd of clients that hold on to what they have, reloads, quarantines; all under load.

Each trial prints one line of figures, as JSON, and its bars; the exit code says whether all were reached.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from measure.crowd import crowd
from measure.machine import ROOT, built, raise_descriptors
from measure.reloads import reloads
from measure.rotation import each_hundredth, each_second, exclusive
from measure.servers import Failed, Ground, say
from measure.withdrawal import quarantines

# By name: what is tried at length, and in short.
TRIALS = {
    "rotation": (
        lambda ground: each_second(ground, 5_000_000),
        lambda ground: each_second(ground, 100_000),
    ),
    "fast-rotation": (
        lambda ground: each_hundredth(ground, 1_000_000),
        lambda ground: each_hundredth(ground, 50_000),
    ),
    "exclusive-rotation": (
        lambda ground: exclusive(ground, 1_000_000),
        lambda ground: exclusive(ground, 100_000),
    ),
    "crowd": (
        lambda ground: crowd(ground, {"heads": 10_000, "drips": 1000, "deaf": 1000}, 20),
        lambda ground: crowd(ground, {"heads": 500, "drips": 50, "deaf": 50}, 5),
    ),
    "reloads": (
        lambda ground: reloads(ground, 10_000),
        lambda ground: reloads(ground, 100),
    ),
    "quarantine": (
        lambda ground: quarantines(ground, 100),
        lambda ground: quarantines(ground, 5),
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"{', '.join(TRIALS)}; all of them unless named")
    parser.add_argument("--quick", action="store_true", help="each in short: that it works, and no proof")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/countersign", help="the proxy to try")
    options = parser.parse_args()
    unknown = [name for name in options.trials if name not in TRIALS]
    if unknown:
        parser.error(f"no trial is named {', '.join(unknown)}: {', '.join(TRIALS)}")
    built(options.binary, "make endurance")
    raise_descriptors()
    reached = [tried(name, options) for name in options.trials or TRIALS]
    return 0 if all(reached) else 1


def tried(name, options):
    say(f"{name}...")
    start = time.monotonic()
    try:
        with Ground(options.binary) as ground:
            figures, bars = TRIALS[name][options.quick](ground)
    except Failed as error:
        print(f"{name}: failed: {error}", flush=True)
        return False
    print(json.dumps({"trial": name, "minutes": round((time.monotonic() - start) / 60, 1), **figures}), flush=True)
    for bar, held in bars.items():
        print(f"  {'reached' if held else 'MISSED '}  {bar}", flush=True)
    return all(bars.values())


if __name__ == "__main__":
    sys.exit(main())
