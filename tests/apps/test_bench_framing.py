"""The framing benchmark: the C loop and the rivals get every case right, and the table hides nobody."""

from __future__ import annotations

import importlib.util
import json
import sys

import jsonschema
import pytest

from evloop.bench import framing, framing_cases, framing_report, native, records
from evloop.bench.framing_cases import Case
from evloop.cli.program import run

MIB = 1 << 20
COMPILED = pytest.mark.skipif(bool(framing_cases.missing("evloop")), reason="evloop._framing is not built")


@pytest.fixture(scope="module")
def floor(tmp_path_factory):
    """The C loop as a module, compiled into a directory of this run."""
    try:
        path = native.build_module(native.FRAMING_FLOOR, tmp_path_factory.mktemp("native"))
    except native.CompilerError as exc:
        pytest.skip(f"the C loop is C: {exc}")
    spec = importlib.util.spec_from_file_location("framing_floor", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", framing.CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", framing_cases.RIVALS)
def test_rival_gets_the_case_right(name, case, floor, monkeypatch):
    """A rival that is fast because it is wrong would win; prepare() compares every byte."""
    monkeypatch.setitem(sys.modules, "framing_floor", floor)
    if what := framing_cases.missing(name):
        pytest.skip(f"not installed: {what}")
    assert framing_cases.prepare(name, case).frames > 0


def test_floor_frame_above_its_limit_is_refused(floor):
    """A floor that believed any length would have an unfair start."""
    with pytest.raises(ValueError, match="frame of 1048577 bytes exceeds 1048576"):
        floor.Decoder().feed((MIB + 1).to_bytes(4, "big"))
    assert floor.Decoder().feed(MIB.to_bytes(4, "big") + bytes(MIB)) == [bytes(MIB)]


@pytest.mark.parametrize("wrong", [bytearray(b"x"), "x", None])
def test_floor_of_anything_but_bytes_is_a_type_error(floor, wrong):
    """What is no bytes object must not be read as one."""
    for call in (floor.Decoder().feed, floor.encode, floor.encode_many, lambda what: floor.encode_many([what])):
        with pytest.raises(TypeError, match="is needed, not"):
            call(wrong)


def results_of(**rivals):
    case = Case("decode", 64, "full")
    return {case: {name: [{"ns_per_frame": cost} for cost in costs] for name, costs in rivals.items()}}


def test_report_names_lost_rows_missed_aims_and_a_busy_machine():
    """What a reader has to know before he quotes a number stands in the report."""
    results = results_of(cloop=[10.0, 10.0, 10.0], evloop=[15.0, 15.0, 24.0], pure=[150.0, 150.0, 150.0])
    text = framing_report.text(results)
    assert "C loop 1.50x" in text and "MISSED  within 1.3x of the C loop" in text
    assert "met     at least 8x evloop pure at 64 B, 64 KiB chunks: 10.00x" in text
    assert "UNSTEADY: in 1 of 1 rows" in text
    assert "Twisted" not in text  # not measured
    assert max(len(line) for line in text.splitlines()) <= 120
    steady = framing_report.text(results_of(cloop=[10.0] * 3, evloop=[10.1] * 3))
    assert "UNSTEADY" not in steady and "  none" in steady and "1.01=" in steady


def test_report_missing_rivals_have_their_remedy(monkeypatch):
    """A rival that is absent in silence looks beaten, and a pure evloop is not the one to be measured."""
    monkeypatch.setattr(framing_cases.Twisted, "needs", "no_such_module_here")
    monkeypatch.setattr(framing_cases.Compiled, "needs", "evloop._no_such_module")
    present, lines = framing_report.present()
    assert "twisted" not in present and "evloop" not in present
    assert "not there, so not measured: Twisted; pip install no_such_module_here" in lines
    assert any("evloop; make build" in line for line in lines)


@pytest.mark.slow
@COMPILED
def test_framing_prints_its_tables_and_writes_json(floor, tmp_path, capsys):
    """From the command line to the file, with processes of its own."""
    path = tmp_path / "out.json"
    assert run(["bench", "framing", "--only", "encode 64 batch", "--rounds", "2", "--json", str(path)]) == 0
    document = records.read(path)
    jsonschema.validate(document, json.loads(records.SCHEMA_FILE.read_text()))
    rows = {row["name"]: row["rounds"] for row in document["results"]}
    assert {"cloop", "evloop", "pure", "struct"} <= set(rows)
    assert all(len(rounds) == 1 for rounds in rows.values())
    out = capsys.readouterr().out
    assert "encode: ns/frame (median)" in out and "the rows we lose" in out
    assert max(len(line) for line in out.splitlines()) <= 120


def test_framing_unknown_case_exits_2(capfd):
    """A misspelt case must not be an empty table."""
    assert run(["bench", "framing", "--only", "decode 65"]) == 2
    assert "no such case; there are decode 16 full" in capfd.readouterr().err


def test_framing_without_a_compiler_says_so(monkeypatch, tmp_path, capfd):
    """The floor is C; whoever has no compiler should read what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert run(["bench", "framing", "--rounds", "2"]) == 1
    assert "gcc and cc not found on PATH; apt-get install gcc" in capfd.readouterr().err
