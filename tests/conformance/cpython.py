"""CPython's own asyncio tests against evloop's loop: ``make conformance``, or this file as a script.

Each module is run by a process of its own, ``one_module.py``, and each test by one of its own again.  What fails is run
once more, alone: what is broken fails twice, what a busy machine was too slow for does not; it is listed as well.

Exit status: 0 all as expected; 1 something failed, an excepted test passed, or a module never made a loop of ours;
2 this Python lacks CPython's tests.

Rule: nothing in this file may know a test by name: ``exceptions.py`` does.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from exceptions import OTHER_SYSTEM, excepted_in, makes_loops

HERE = Path(__file__).parent

# Seconds.  The slowest test takes 6 on an idle machine, so this is patience for one with ten times the work.
LIMIT = 60.0

COLUMNS = ("passed", "skipped", "expected", "again", "failed")


class Report:
    """What became of the tests of one module."""

    def __init__(self, module, stock, complete):
        self.module = module
        self.stock = stock
        self.complete = complete
        self.lines = {}
        self.again = []
        excepted = excepted_in(sys.version_info[:2], stock)
        self.excepted = {name: entry for name, entry in excepted.items() if name.split(".")[0] == module}

    def failing(self):
        """Return the names of the tests that neither passed nor were expected not to."""
        bad = (name for name, line in self.lines.items() if line["status"] not in ("passed", "skipped"))
        return [name for name in bad if name not in self.excepted]

    def problems(self):
        """Return what is wrong with the module, as (title, detail) pairs."""
        found = [(f"{name}: {self.lines[name]['status']}", self.lines[name]["detail"]) for name in self.failing()]
        for name, entry in self.excepted.items():
            if name in self.lines and self.lines[name]["status"] == "passed":
                found.append((f"{name}: passed, though it is excepted", entry.reason))
            elif name not in self.lines and self.complete:
                found.append((f"{name}: excepted, and there is no such test", entry.reason))
        if not self.stock:
            found += self._wrong_loops(sum(line["loops"] for line in self.lines.values()))
        return found

    def _wrong_loops(self, made):
        wanted = makes_loops(self.module, sys.version_info[:2])
        if wanted and not made and self.complete:
            return [(f"{self.module}: no test of it made a loop of ours", "see LOOP_INDEPENDENT in exceptions.py")]
        if made and not wanted:
            return [(f"{self.module}: made {made} loops of ours", "so it is not LOOP_INDEPENDENT")]
        return []

    def row(self):
        """Return the numbers of the module, by column."""
        count = collections.Counter(line["status"] for line in self.lines.values())
        expected = sum(self.lines[name]["status"] not in ("passed", "skipped") for name in self.excepted
                       if name in self.lines)  # fmt: skip
        return {
            "passed": count["passed"] - len(self.again),
            "skipped": count["skipped"],
            "expected": expected,
            "again": len(self.again),
            "failed": len(self.problems()),
            "loops": sum(line["loops"] for line in self.lines.values()),
        }


def available():
    """Return the names of the modules of test_asyncio that this Python has and this system can run."""
    spec = importlib.util.find_spec("test") and importlib.util.find_spec("test.test_asyncio")
    if spec is None:
        print("this Python lacks CPython's tests (Debian: apt-get install libpython3-testsuite)", file=sys.stderr)
        sys.exit(2)
    found = {path.stem for path in Path(spec.origin).parent.glob("test_*.py")}
    return sorted(found - OTHER_SYSTEM)


def run_module(module, args, tests=None, jobs=None):
    """Run a module, or some of its tests; yield a line about each."""
    # The warnings and the checks that CPython's own runner turns on.
    command = [sys.executable, "-W", "default", "-bb", str(HERE / "one_module.py"), module]
    command += ["--jobs", str(jobs or args.jobs), "--limit", str(args.limit), "--match", args.match]
    command += ["--stock"] * args.stock
    env = {**os.environ, **({"EVLOOP_PURE": "1"} if args.pure else {})}
    with tempfile.NamedTemporaryFile("w", prefix="conformance-") as file:
        if tests is not None:
            file.write("\n".join(tests))
            file.flush()
            command += ["--only", file.name]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                yield json.loads(line)
    if process.returncode:
        detail = f"one_module.py ended with status {process.returncode}"
        yield {"id": module, "status": "crashed", "seconds": 0, "loops": 0, "detail": detail}


def run(module, args):
    """Run a module, and what failed once more by itself; return the report."""
    report = Report(module, args.stock, complete=not args.match)
    for line in run_module(module, args):
        report.lines[line["id"]] = line
    failed = report.failing()
    for line in run_module(module, args, failed, jobs=1) if failed else ():
        if line["status"] == "passed":
            report.again.append(line["id"])
        report.lines[line["id"]] = line
    return report


def show(report, verbose):
    """Print the module's row, and what is to be said about it."""
    row = report.row()
    print(f"{report.module:22}" + "".join(f"{row[name]:>9}" for name in (*COLUMNS, "loops")), flush=True)
    for name in report.again:
        print(f"    again: {name} passed only when it was run alone")
    for title, detail in report.problems():
        print(f"    {title}")
        print("".join(f"        {line}\n" for line in detail.splitlines()), end="")
    if verbose:
        for name, line in report.lines.items():
            print(f"    {line['status']:8} {line['seconds']:7.3f} s  {name}  {line['detail'].splitlines()[-1:] or ''}")


def main():
    """Run the modules that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="module", help="such as test_events; default: all")
    parser.add_argument("-k", "--match", default="", metavar="TEXT", help="run the tests whose id contains this")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="tests at a time (default 2)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds a test may take (default %(default)g)")
    parser.add_argument("--stock", action="store_true", help="run on the standard library's own loop, to compare")
    parser.add_argument("--pure", action="store_true", help="run the loop on the pure-Python core")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what became of each test")
    args = parser.parse_args()
    known = available()
    unknown = set(args.modules) - set(known)
    if unknown:
        parser.error(f"no such module: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    loop = "the standard loop" if args.stock else "the pure loop" if args.pure else "evloop's loop"
    print(f"CPython {sys.version.split()[0]}'s own tests on {loop}")
    print(f"{'':22}" + "".join(f"{name:>9}" for name in (*COLUMNS, "loops")))
    total = collections.Counter()
    for module in args.modules or known:
        report = run(module, args)
        show(report, args.verbose)
        total.update(report.row())
    print(f"{'total':22}" + "".join(f"{total[name]:>9}" for name in (*COLUMNS, "loops")))
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
