"""The machine: its cores, what processes use of it, and whether others use it meanwhile."""

import contextlib
import os
import platform
import resource
import shutil
import socket
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Where measurements leave what they build and find.
OUTPUT = ROOT / "target/bench"
# The share of a core that others may use before a measurement is repeated.
DISTURBED = 0.12


def cores():
    """One for the proxy; one for the origin and the load."""
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        sys.exit("two cores are needed: one for the proxy, one for the origin and the load")
    return found[:2]


def command(name):
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        sys.exit(f"{name} is not installed: `scripts/tools.sh bench` installs it")
    return found


def built(path, how):
    if not path.is_file():
        sys.exit(f"{path} is not there: `{how}` builds it")
    return str(path)


def pinned(core, words):
    return [command("taskset"), "-c", str(core), *words]


def raise_descriptors():
    """As many open files as we may have, for ourselves and what we start."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_ports(count):
    """The first of so many ports in a row, outside the range from which the system gives ports away."""
    for first in range(20000, 32000, count):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    sys.exit(f"no {count} ports in a row are free")


def describe():
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return f"{len(os.sched_getaffinity(0))} cores, {model.partition(': ')[2] or 'unknown'}, Linux {platform.release()}"


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


def resident_megabytes(pid):
    """Of a process and its children. What they share is counted once: a master and its worker are not two programs."""
    total = 0
    for process in process_tree(pid):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:" if len(process_tree(pid)) > 1 else "Rss:"):
                total += int(line.split()[1])
    return total / 1024


def busy_microseconds():
    """What everybody has used."""
    user, nice, system, _, _, irq, softirq = [int(word) for word in Path("/proc/stat").read_text().split()[1:8]]
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK") * 1e6


def own_microseconds():
    """What this program and what it has waited for have used."""
    times = os.times()
    return (times.user + times.system + times.children_user + times.children_system) * 1e6


class Watch:
    """Sees what others use of the machine, from `with` to the end of it. `processes` are ours beside the children that
    have ended by then."""

    def __init__(self, *processes):
        self.processes = processes

    def __enter__(self):
        self.start, self.busy, self.ours = time.monotonic(), busy_microseconds(), self.own()
        return self

    def __exit__(self, *_):
        seconds = time.monotonic() - self.start
        used = (busy_microseconds() - self.busy) - (self.own() - self.ours)
        self.others = max(0.0, used / 1e6 / seconds)

    def own(self):
        return own_microseconds() + sum(cpu_microseconds(pid) for pid in self.processes)


class Patience:
    """Waiting for a quiet machine and repeating what was disturbed, up to so many seconds in all."""

    def __init__(self, seconds):
        self.left = seconds

    def wait_for_quiet(self, *processes):
        while self.left > 0:
            start = time.monotonic()
            with Watch(*processes) as watch:
                time.sleep(0.5)
            if watch.others <= DISTURBED:
                return
            self.left -= time.monotonic() - start

    def least_disturbed(self, processes, measure):
        """The figures of the first measurement that nobody disturbed, or else of the least disturbed."""
        best = None
        while True:
            self.wait_for_quiet(*processes)
            start = time.monotonic()
            with Watch(*processes) as watch:
                figures = measure()
            figures["others"] = round(watch.others, 3)
            if best is None or figures["others"] < best["others"]:
                best = figures
            if best["others"] <= DISTURBED or self.left <= 0:
                return best
            self.left -= time.monotonic() - start
