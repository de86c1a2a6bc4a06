"""The table: what each contender cost, and what was reached."""

import statistics

from measure.machine import DISTURBED


def report(rows, results, facts):
    """In Markdown. `results` are the runs by row and contender."""
    measured = [row for row in rows if whole(row, results)]
    lines = [facts, "", "| case | contender | figures: median (lowest - highest) |", "|---|---|---|"]
    for row in measured:
        for name, runs in results[row.name]["runs"].items():
            lines.append(
                f"| {row.title} | {name} {'' if name.isdigit() else runs[-1]['version']} | {figures(row, runs)} |"
            )
    lines += ["", "| case | must be | is | reached |", "|---|---|---|---|"]
    for row in measured:
        for verdict in judge(row, results):
            lines.append(
                f"| {row.title} | {wanted(verdict)} | {found(verdict)} | {'yes' if verdict['reached'] else '**no**'} |"
            )
    for row in rows:
        trouble = results.get(row.name, {}).get("trouble")
        if row not in measured or trouble:
            lines += [
                "",
                f"{'Cut short' if row in measured else 'Not measured'}: {row.title}. {trouble or ''}".rstrip(),
            ]
    disturbed = {
        row.name for row in measured for run in all_runs(results[row.name]) if run.get("others", 0) > DISTURBED
    }
    if disturbed:
        lines += [
            "",
            f"Disturbed, others used more than {DISTURBED:.0%} of a core meanwhile: {', '.join(sorted(disturbed))}.",
        ]
    return "\n".join(lines)


def whole(row, results):
    """Whether each contender has been measured."""
    runs = results.get(row.name, {}).get("runs", {})
    return all(runs.get(name) for name in row.contenders())


def reached(row, results):
    """Whether everything was measured, and is as it must be."""
    return (
        whole(row, results)
        and "trouble" not in results[row.name]
        and all(verdict["reached"] for verdict in judge(row, results))
    )


def judge(row, results):
    """What was reached, limit by limit; of the restarts that each contender has."""
    runs = results[row.name]["runs"]
    turns = min(len(found) for found in runs.values())
    return [limit.judge({name: found[:turns] for name, found in runs.items()}) for limit in row.limits]


def all_runs(result):
    return [run for runs in result["runs"].values() for run in runs]


def figures(row, runs):
    def one(key):
        values = [run[key] for run in runs]
        return f"{key} {short(statistics.median(values))} ({short(min(values))} - {short(max(values))})"

    return ", ".join(one(key) for key in row.figures)


def wanted(verdict):
    beside = f" x {verdict['beside']}" if verdict["beside"] else ""
    return f"{verdict['figure']} <= {verdict['most']}{beside}"


def found(verdict):
    return f"{short(verdict['median'])} ({short(verdict['lowest'])} - {short(verdict['highest'])})"


def short(value):
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
