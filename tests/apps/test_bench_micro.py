"""The micro benchmark of the loops: each operation is done as often as the figure is divided by."""

from __future__ import annotations

import asyncio
import json

import jsonschema
import pytest

from evloop.bench import micro, records
from evloop.bench.micro_cases import BATCH, CASES


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1])
@pytest.mark.parametrize("name", CASES)
def test_micro_each_case_ends_with_an_idle_loop(name, count):
    """What is left over would be done in nobody's time, and a figure per operation be too good."""
    if count > 1 and name in ("threadsafe-wake", "wait_for"):
        count = 10  # no batches in them, and slow
    loop = asyncio.SelectorEventLoop()
    try:
        CASES[name](loop, count)
        assert len(loop._ready) <= 1  # the batch's own next step, which finds nothing
        assert all(timer.cancelled() for timer in loop._scheduled)
    finally:
        loop.close()


def test_micro_call_soon_runs_each_operation_in_a_turn(monkeypatch):
    """The chain is what a turn costs; the number of turns is the divisor."""
    loop = asyncio.SelectorEventLoop()
    turns = []
    monkeypatch.setattr(loop, "_run_once", lambda: (turns.append(1), asyncio.SelectorEventLoop._run_once(loop)))
    try:
        CASES["call_soon"](loop, 7)
        assert len(turns) == 7
    finally:
        loop.close()


@pytest.mark.slow
def test_micro_prints_a_row_for_each_loop_and_case_and_writes_json(capfd, tmp_path):
    """From the command line to the table and the file, with processes of its own."""
    path = tmp_path / "out.json"
    what = ["--cases", "sleep-0,task", "--loops", "evloop,asyncio", "--rounds", "2", "--seconds", "0.001"]
    assert micro.main([*what, "--json", str(path)]) == 0
    out = capfd.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows if row[:1] in (["sleep-0"], ["task"])] == ["sleep-0", "task"]
    assert sum("asyncio" in row for row in rows) == 2
    assert "reactor" in out
    document = records.read(path)
    jsonschema.validate(document, json.loads(records.SCHEMA_FILE.read_text()))
    assert {name: len(runs) for name, runs in records.by_case(document)["task"].items()} == {"evloop": 1, "asyncio": 1}


def test_micro_one_prints_nothing(capfd):
    """What callgrind counts is the operations, and not a report."""
    assert micro.main(["--one", "sleep-0", "--loops", "evloop", "--count", "10"]) == 0
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("arguments", [["--cases", "nap"], ["--loops", "tornado"], ["--one", "nap"]])
def test_micro_unknown_name_is_a_usage_error(arguments, capfd):
    """A misspelt case must not be a table without it."""
    with pytest.raises(SystemExit) as caught:
        micro.main(arguments)
    assert caught.value.code == 2
    assert "nap" in capfd.readouterr().err or "tornado" in arguments
