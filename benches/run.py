#!/usr/bin/env python3
"""Measures the proxy beside its peers: what a request, a handshake, a body, a connection and a start cost.

One proxy at a time runs on one core; the origin and the load generator share another. Each measurement is a fresh start
of a proxy, and the contenders of a row take turns, so that what changes on the machine meets all of them. See
benches/README.md.

The table goes to standard output, progress to standard error, and all figures to target/bench/results.json, which is
written after each measurement: `--resume` goes on from there, `--report` only prints.
"""

import argparse
import datetime
import hashlib
import json
import sys
import time
from pathlib import Path

from measure.machine import OUTPUT, ROOT, Patience, built, describe, raise_descriptors
from measure.report import reached, report
from measure.rows import ROWS, tell
from measure.servers import Failed, Ground, say

RESULTS = OUTPUT / "results.json"


def main():
    options = arguments()
    rows = [row for row in ROWS if row.name in options.rows]
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if not options.report:
        raise_descriptors()
        settings = {"binary": digest(options.binary), "seconds": options.seconds}
        say(f"about {minutes(rows, options)} minutes, and {options.patience / 60:.0f} more if others are at work")
        with Ground(options.binary) as ground:
            patience = Patience(options.patience)
            for row in rows:
                begin(row, results, settings, options.resume)
                measure(row, results, ground, patience, options)
    print(report(rows, results, facts(rows, results)))
    return 0 if all(reached(row, results) for row in rows) else 1


def arguments():
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="rows: " + ", ".join(names))
    parser.add_argument("--rows", type=lambda text: text.split(","), default=names, help="some of them, with commas")
    parser.add_argument("--restarts", type=int, help="measurements of each contender (5)")
    parser.add_argument("--seconds", type=int, help="length of a measurement (4)")
    parser.add_argument(
        "--patience", type=int, help="seconds in all to wait for others and to repeat what they disturbed (300)"
    )
    parser.add_argument("--quick", action="store_true", help="two restarts of two seconds, and no patience")
    parser.add_argument("--resume", action="store_true", help="keep what the last run has measured with this build")
    parser.add_argument("--report", action="store_true", help="measure nothing, print what is there")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/countersign", help="the proxy to measure")
    options = parser.parse_args()
    usual = (
        {"restarts": 2, "seconds": 2, "patience": 0}
        if options.quick
        else {"restarts": 5, "seconds": 4, "patience": 300}
    )
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    unknown = [name for name in options.rows if name not in names]
    if unknown:
        parser.error(f"no row is named {', '.join(unknown)}: {', '.join(names)}")
    built(options.binary, "make bench")
    return options


def minutes(rows, options):
    seconds = sum(row.seconds_each(options.seconds) * len(row.contenders()) * options.restarts for row in rows)
    return -(-seconds // 60)


def begin(row, results, settings, resume):
    """Whatever was measured otherwise does not count."""
    known = results.get(row.name)
    if not resume or known is None or known["settings"] != settings:
        results[row.name] = {"settings": settings, "runs": {name: [] for name in row.contenders()}}


def measure(row, results, ground, patience, options):
    """All restarts of a row; a contender that fails twice in a row cuts it short, and the other rows go on."""
    result = results[row.name]
    result.pop("trouble", None)
    for restart in range(options.restarts):
        # The one that goes first changes, so that none always finds the machine as the same other left it.
        shift = restart % len(row.contenders())
        for name in row.contenders()[shift:] + row.contenders()[:shift]:
            runs = result["runs"][name]
            if len(runs) > restart:
                continue
            try:
                figures = once(row, ground, name, options.seconds, patience)
            except Failed as error:
                result["trouble"] = str(error)
                return save(results)
            runs.append(figures)
            tell(row, restart + 1, options.restarts, name, figures)
            save(results)
        result["date"] = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        result["machine"] = describe()
    return save(results)


def once(row, ground, name, seconds, patience):
    try:
        return row.measure(ground, name, seconds, patience)
    except Failed as error:
        say(f"{row.name}: once more: {error}")
        return row.measure(ground, name, seconds, patience)


def save(results):
    OUTPUT.mkdir(parents=True, exist_ok=True)
    new = RESULTS.with_suffix(".new")
    new.write_text(json.dumps(results, indent=1), encoding="utf-8")
    new.rename(RESULTS)


def facts(rows, results):
    """Where and when, and with what."""
    known = [results[row.name] for row in rows if "date" in results.get(row.name, {})]
    said = sorted({f"{result['date']}, {result['machine']}" for result in known})
    shape = {(len(runs), result["settings"]["seconds"]) for result in known for runs in result["runs"].values()}
    restarts = ", ".join(f"{restarts} restarts of {seconds} s" for restarts, seconds in sorted(shape))
    return f"{'; '.join(said)}. {restarts}. Medians."


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    start = time.monotonic()
    code = main()
    say(f"{(time.monotonic() - start) / 60:.1f} minutes")
    sys.exit(code)
