"""Scores `countersign detect score` on a folder of labelled series, by the rule of the Numenta Anomaly Benchmark.

    python3 benches/series.py FOLDER [--program PATH] [--per-file]

FOLDER holds `windows.json` (or the benchmark's `combined_windows.json`) and the series below `data/`. Figures of the standard
profile are told: at the fixed threshold of 0.5; at the one that is best for these files, the benchmark's own practice; with
each folder scored at the threshold that is best for the others; with each folder scored by a detector every choice of which,
its signals, what becomes of their rarities, the threshold, was made on the others (nested), beside what the same making of
choices reaches on the files that it saw; and what a row costs.

The choices are made anew from `--sizes`, how rare each size of a row is, by what `src/detect/series.rs` does with them: that
this is the same is checked for each file.
"""

import argparse
import csv
import itertools
import json
import math
import pathlib
import subprocess
import sys
import time

FALSE_ALARM = 0.11
ALARM = 0.5
THRESHOLDS = [step / 1000 for step in range(900, 99, -1)]

# Sizes of one kind are chosen together: a folder is too little to tell windows of different lengths apart.
KINDS = {
    "outlier": ("above", "below"),
    "change": ("jump", "bend"),
    "beat": ("off_beat",),
    "unexplained": ("unexplained_3", "unexplained_10"),
    "range": ("range_12", "range_40", "range_160"),
    "record": ("highest", "lowest"),
    "level": ("level_20", "level_40", "level_80"),
    "roughness": ("roughness_12", "roughness_30", "roughness_80"),
}
# Of an old series, by how much rarer for each tenfold of its age; how much rarer than the last alarm; rows for it to fade.
AGES, MARGINS, FADES = (0.0, 0.3, 0.6, 0.9), (1.0, 1.15, 1.3), (100, 300, 1000)
PRODUCT = (frozenset(KINDS), 0.6, 1.15, 300)


def sigmoid(distance):
    return -1.0 if distance > 3.0 else 2.0 / (1.0 + math.exp(5.0 * distance)) - 1.0


class Series:
    def __init__(self, name, file, windows, program):
        self.name, self.folder = name, name.split("/")[0]
        started = time.monotonic()
        found = self.run(program, file)
        self.seconds, self.rows = time.monotonic() - started, len(found)
        times = [row["timestamp"].strip()[:19] for row in found]
        spans = [(times.index(first[:19]), times.index(last[:19])) for first, last in windows]
        self.scores = [float(row["anomaly_score"]) for row in found]
        self.rewards, self.windows = self.reward(spans)
        sized = self.run(program, file, "--sizes")
        self.rarities = {kind: [max(float(row[size]) for size in sizes) for row in sized] for kind, sizes in KINDS.items()}
        far = max((abs(one - other) for one, other in zip(self.chosen(PRODUCT), self.scores)), default=0.0)
        if far > 1e-4:
            sys.exit(f"{name}: the score is not what this program makes of the sizes, by {far}")

    @staticmethod
    def run(program, file, *more):
        run = [program, "detect", "score", "--series", str(file), *more]
        told = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        return list(csv.DictReader(told.splitlines()))

    def reward(self, spans):
        """What a detection at each row that counts would be worth, and to which window it belongs."""
        skipped = min(math.floor(0.15 * self.rows), 750)
        rewards, live = [None] * skipped, set()
        for row in range(skipped, self.rows):
            inside = next((span for span in spans if span[0] <= row <= span[1]), None)
            before = [span for span in spans if span[1] < row]
            if inside:
                first, last = inside
                live.add(inside)
                rewards.append((sigmoid(-(last - row + 1) / (last - first + 1)) / sigmoid(-1.0), inside))
            elif before:
                first, last = before[-1]
                rewards.append((sigmoid((row - last) / (last - first)), None))
            else:
                rewards.append((-1.0, None))
        return rewards, len(live)

    def chosen(self, choice):
        """The scores by a choice, as `Detector::heard` has them by the product's."""
        kinds, age, margin, fade = choice
        height = fall = 0.0
        scores = []
        for row, rarest in enumerate(map(max, zip(*(self.rarities[kind] for kind in kinds), itertools.repeat(0.0))), 1):
            rarity = rarest - age * math.log10(row / 1000)
            height = max(height - fall, 0.0)
            heard = max(rarity, 0.0) if rarity > height else 0.0
            if rarity * margin > height:
                height = rarity * margin
                fall = height / fade
            scores.append(heard / (heard + 2.98))
        return scores

    def worth(self, scores):
        """The raw score at each threshold."""
        points = [(score, reward) for score, reward in zip(scores, self.rewards) if reward and score >= THRESHOLDS[-1]]
        points.sort(key=lambda point: -point[0])
        total, best, taken, worth = -float(self.windows), {}, 0, []
        for threshold in THRESHOLDS:
            while taken < len(points) and points[taken][0] >= threshold:
                reward, window = points[taken][1]
                taken += 1
                if window is None:
                    total += FALSE_ALARM * reward
                else:
                    total += max(reward - best.get(window, -1.0), 0.0)
                    best[window] = max(reward, best.get(window, -1.0))
            worth.append(total)
        return worth


class Choosing:
    """Makes choices, by what they are worth on some of the series."""

    def __init__(self, series):
        self.series, self.known = series, {}

    def worth(self, choice):
        if choice not in self.known:
            self.known[choice] = {one.name: one.worth(one.chosen(choice)) for one in self.series}
        return self.known[choice]

    def best(self, choice, seen):
        """The best threshold, and what it reaches."""
        worth = self.worth(choice)
        sums = [sum(column) for column in zip(*(worth[one.name] for one in seen))]
        at = max(range(len(sums)), key=sums.__getitem__)
        return sums[at], at

    def on(self, choice, at, scored):
        return sum(self.worth(choice)[one.name][at] for one in scored)

    def transferred(self, choice, seen):
        """What a choice reaches on each folder at the threshold that is best for the others of those that are seen."""
        total = 0.0
        for folder in sorted({one.folder for one in seen}):
            _, at = self.best(choice, [one for one in seen if one.folder != folder])
            total += self.on(choice, at, [one for one in seen if one.folder == folder])
        return total

    def make(self, seen):
        """First what becomes of rarities, of all kinds; then a kind is let go of for as long as that is worth anything."""
        every = frozenset(KINDS)
        all_kinds = ((every, *rest) for rest in itertools.product(AGES, MARGINS, FADES))
        choice = max(all_kinds, key=lambda one: self.transferred(one, seen))
        while True:
            kinds, *rest = choice
            fewer = max(((kinds - {kind}, *rest) for kind in sorted(kinds)), key=lambda one: self.transferred(one, seen))
            if len(kinds) == 1 or self.transferred(fewer, seen) <= self.transferred(choice, seen):
                return choice
            choice = fewer


def normal(raw, windows):
    return 100.0 * (raw + windows) / (2.0 * windows)


def said(choice):
    kinds, age, margin, fade = choice
    without = " ".join(sorted(set(KINDS) - kinds))
    return f"age {age}, margin {margin}, fade {fade}" + (f", without {without}" if without else "")


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
    windows = sum(one.windows for one in series)

    choosing = Choosing(series)
    choosing.known[PRODUCT] = {one.name: one.worth(one.scores) for one in series}
    worth = choosing.worth(PRODUCT)
    fixed = THRESHOLDS.index(ALARM)
    at_fixed = choosing.on(PRODUCT, fixed, series)
    at_best, in_sample = choosing.best(PRODUCT, series)
    by_threshold, by_all, folds = 0.0, 0.0, []
    for folder in sorted({one.folder for one in series}):
        seen, unseen = ([one for one in series if (one.folder != folder) == is_seen] for is_seen in (True, False))
        _, at = choosing.best(PRODUCT, seen)
        by_threshold += choosing.on(PRODUCT, at, unseen)
        choice = choosing.make(seen)
        _, at = choosing.best(choice, seen)
        by_all += choosing.on(choice, at, unseen)
        folds.append(f"  {folder}: {said(choice)}, threshold {THRESHOLDS[at]}")
    chosen = choosing.make(series)
    cost = sum(one.seconds for one in series) / sum(one.rows for one in series)
    print(f"{len(series)} series, {windows} windows")
    print(f"at {ALARM}, the threshold of the product            {normal(at_fixed, windows):5.1f}")
    print(f"at {THRESHOLDS[in_sample]}, the best for these files            {normal(at_best, windows):5.1f}")
    print(f"threshold of the other folders                  {normal(by_threshold, windows):5.1f}")
    print(f"every choice by the other folders (nested)      {normal(by_all, windows):5.1f}")
    print(f"every choice by these files (in-sample)         {normal(choosing.best(chosen, series)[0], windows):5.1f}, {said(chosen)}")
    print(f"a row takes {cost * 1e6:.1f} microseconds, start and reading included")
    print("chosen without", *folds, sep="\n")
    if options.per_file:
        for one in series:
            print(f"  {worth[one.name][fixed]:6.2f} of {one.windows}  {one.name}")


if __name__ == "__main__":
    main()
