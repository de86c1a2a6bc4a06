"""Scores `countersign detect score` on a folder of labelled series, by the rule of the Numenta Anomaly Benchmark.

    python3 benches/series.py FOLDER [--program PATH] [--per-file]

FOLDER holds `windows.json` (or the benchmark's `combined_windows.json`) and the series below `data/`. Four figures of the
standard profile are told: at the fixed threshold of 0.5; at the one that is best for these files, the benchmark's own
practice; and with each folder scored at the threshold that is best for the others (nested); and what a row costs.
"""

import argparse
import csv
import json
import math
import pathlib
import subprocess
import sys
import time

FALSE_ALARM = 0.11
ALARM = 0.5


def sigmoid(distance):
    return -1.0 if distance > 3.0 else 2.0 / (1.0 + math.exp(5.0 * distance)) - 1.0


def scores(program, file):
    run = subprocess.run([program, "detect", "score", "--series", str(file)], capture_output=True, text=True, check=True)
    return [float(row["anomaly_score"]) for row in csv.DictReader(run.stdout.splitlines())]


class Series:
    def __init__(self, name, file, windows, program):
        self.name, self.folder = name, name.split("/")[0]
        with open(file, newline="") as lines:
            times = [row["timestamp"].strip()[:19] for row in csv.DictReader(lines)]
        started = time.monotonic()
        found = scores(program, file)
        self.seconds, self.rows = time.monotonic() - started, len(times)
        spans = [(times.index(first[:19]), times.index(last[:19])) for first, last in windows]
        skipped = min(math.floor(0.15 * len(times)), 750)
        self.points, self.windows = self.rewards(found, spans, skipped)

    @staticmethod
    def rewards(found, spans, skipped):
        """What a detection at each row that counts would be worth, and to which window it belongs."""
        points, live = [], set()
        for row, score in enumerate(found):
            if row < skipped:
                continue
            inside = next((span for span in spans if span[0] <= row <= span[1]), None)
            before = [span for span in spans if span[1] < row]
            if inside:
                first, last = inside
                live.add(inside)
                points.append((score, sigmoid(-(last - row + 1) / (last - first + 1)) / sigmoid(-1.0), inside))
            elif before:
                first, last = before[-1]
                points.append((score, sigmoid((row - last) / (last - first)), None))
            else:
                points.append((score, -1.0, None))
        return sorted((point for point in points if point[0] > 0), key=lambda point: -point[0]), len(live)

    def worth(self, thresholds):
        """The raw score at each threshold, of thresholds that fall."""
        total, best, taken, worth = -float(self.windows), {}, 0, []
        for threshold in thresholds:
            while taken < len(self.points) and self.points[taken][0] >= threshold:
                _, reward, window = self.points[taken]
                taken += 1
                if window is None:
                    total += FALSE_ALARM * reward
                else:
                    total += max(reward - best.get(window, -1.0), 0.0)
                    best[window] = max(reward, best.get(window, -1.0))
            worth.append(total)
        return worth


def normal(raw, windows):
    return 100.0 * (raw + windows) / (2.0 * windows)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--program", default="target/release/countersign")
    arguments.add_argument("--per-file", action="store_true")
    options = arguments.parse_args()
    labels = next((f for f in ("windows.json", "combined_windows.json") if (options.folder / f).exists()), None)
    if labels is None:
        sys.exit(f"{options.folder}: there is no windows.json in it")
    labelled = json.loads((options.folder / labels).read_text())
    files = {name: options.folder / "data" / name for name in sorted(labelled)}
    series = [Series(name, file, labelled[name], options.program) for name, file in files.items() if file.exists()]

    thresholds = [step / 1000 for step in range(900, 99, -1)]
    worth = {one.name: one.worth(thresholds) for one in series}
    windows = sum(one.windows for one in series)

    def best(chosen):
        sums = [sum(worth[one.name][at] for one in chosen) for at in range(len(thresholds))]
        return max(range(len(sums)), key=sums.__getitem__)

    fixed, in_sample = thresholds.index(ALARM), best(series)
    nested = 0.0
    for folder in {one.folder for one in series}:
        at = best([one for one in series if one.folder != folder])
        nested += sum(worth[one.name][at] for one in series if one.folder == folder)
    at_fixed, at_best = (sum(worth[one.name][at] for one in series) for at in (fixed, in_sample))
    cost = sum(one.seconds for one in series) / sum(one.rows for one in series)
    print(f"{len(series)} series, {windows} windows")
    print(f"at {ALARM}, the threshold of the product   {normal(at_fixed, windows):5.1f}")
    print(f"at {thresholds[in_sample]}, the best for these files   {normal(at_best, windows):5.1f}")
    print(f"threshold of the other folders (nested)  {normal(nested, windows):5.1f}")
    print(f"a row takes {cost * 1e6:.1f} microseconds, start and reading included")
    if options.per_file:
        for one in series:
            print(f"  {worth[one.name][fixed]:6.2f} of {one.windows}  {one.name}")


if __name__ == "__main__":
    main()
