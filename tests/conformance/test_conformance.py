"""The runner of CPython's own tests, on its smallest modules; `make conformance` runs all of them."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import cpython
import exceptions
import pytest
from twins import implementations

SCRIPT = Path(__file__).with_name("cpython.py")

if cpython.importlib.util.find_spec("test.test_asyncio") is None:
    pytest.skip("this Python lacks CPython's tests", allow_module_level=True)


def conformance(*arguments):
    """Run the script; return its exit status and what it printed."""
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def line(name, status, loops=1):
    """Return what a test's process would have said."""
    return {"id": name, "status": status, "seconds": 0.0, "loops": loops, "detail": ""}


def report_of(monkeypatch, *lines, excepted=(), module="test_streams"):
    """Return the report on a module with the given lines and exceptions."""
    monkeypatch.setattr(exceptions, "EXCEPTED", excepted)
    report = cpython.Report(module, stock=False, complete=True)
    report.lines = {line["id"]: line for line in lines}
    return report


def test_small_modules_pass_on_our_loop(request):
    """The whole way: a module, a process a test, our loop in it, the table."""
    pure = ["--pure"] if implementations(request.config) == ["python"] else []
    status, said = conformance("test_buffered_proto", "test_context", *pure)
    assert (status, said.splitlines()[-1].split()[0]) == (0, "total")


def test_test_that_takes_too_long_is_a_failure():
    """A hang is a result like any other, and does not hold up the rest."""
    status, said = conformance("test_server", "--limit", "0.01", "--match", "test_start_server_1")
    assert status == 1
    assert "it was not done after 0.01 s" in said


def test_unknown_module_is_a_usage_error():
    """A misspelt module must not pass for one without failures."""
    status, said = conformance("test_no_such_thing")
    assert status == 2
    assert "test_events" in said


def test_report_excepted_failure_is_no_problem(monkeypatch):
    """The list of exceptions does what it is for."""
    excepted = (exceptions.Excepted("test_streams.A.test_b", "a reason"),)
    report = report_of(monkeypatch, line("test_streams.A.test_b", "hung"), excepted=excepted)
    assert (report.problems(), report.row()["expected"]) == ([], 1)


def test_report_excepted_pass_is_a_problem(monkeypatch):
    """Or the list would outlive its reasons."""
    excepted = (exceptions.Excepted("test_streams.A.test_b", "a reason"),)
    report = report_of(monkeypatch, line("test_streams.A.test_b", "passed"), excepted=excepted)
    assert [title for title, _ in report.problems()] == ["test_streams.A.test_b: passed, though it is excepted"]


def test_report_exception_that_names_no_test_is_a_problem(monkeypatch):
    """A misspelt or renamed test would never be missed otherwise."""
    excepted = (exceptions.Excepted("test_streams.A.test_gone", "a reason"),)
    report = report_of(monkeypatch, line("test_streams.A.test_b", "passed"), excepted=excepted)
    assert [title for title, _ in report.problems()] == [
        "test_streams.A.test_gone: excepted, and there is no such test"
    ]


@pytest.mark.parametrize(("since", "until", "problems"), [((3, 99), (3, 99), 1), ((3, 10), (3, 99), 0)])
def test_report_exception_holds_for_its_versions_alone(monkeypatch, since, until, problems):
    """What fails in one version must not be excused in another one."""
    excepted = (exceptions.Excepted("test_streams.A.test_b", "a reason", since, until),)
    report = report_of(monkeypatch, line("test_streams.A.test_b", "failed"), excepted=excepted)
    assert len(report.problems()) == problems


def test_report_module_without_a_loop_of_ours_is_a_problem(monkeypatch):
    """A hook that no longer takes would turn the whole suite into a test of the standard library."""
    report = report_of(monkeypatch, line("test_streams.A.test_b", "passed", loops=0))
    assert [title for title, _ in report.problems()] == ["test_streams: no test of it made a loop of ours"]


def test_report_independent_module_with_a_loop_of_ours_is_a_problem(monkeypatch):
    """The list of modules without loops is as strict as the other one."""
    report = report_of(monkeypatch, line("test_transports.A.test_b", "passed"), module="test_transports")
    assert len(report.problems()) == 1


def test_run_failure_that_passes_alone_is_told(monkeypatch):
    """The machine may have been too busy; a failure that comes and goes must be seen all the same."""
    answers = iter([[line("test_streams.A.test_b", "hung")], [line("test_streams.A.test_b", "passed")]])
    monkeypatch.setattr(cpython, "run_module", lambda *args, **kwargs: next(answers))
    report = cpython.run("test_streams", argparse.Namespace(stock=False, match=""))
    assert (report.row()["again"], report.row()["failed"], report.row()["passed"]) == (1, 0, 0)
