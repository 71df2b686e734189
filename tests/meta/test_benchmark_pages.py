"""The numbers in the documents are those that were measured: made from the files in bench/results, by machine."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import re
import signal
import subprocess
import sys

import jsonschema
import pytest

from evloop.bench import fanout_servers, framing, peers, records

ROOT = pathlib.Path(__file__).parents[2]
# Decisions are records of their day, and their numbers are not measured anew.
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
NUMBERS = re.compile(r"(?:^\|.*\n)?^\|[-:|]*-:[-:|]*\|$", re.M)  # a table with a column of numbers: aligned right


def module_of(name):
    """Return a file of the folder bench, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "bench" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLES, PUBLISH = module_of("tables"), module_of("publish")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_table_of_numbers_is_made_by_machine_or_names_who_makes_it(page):
    """A number that nobody can make again is an assertion; it goes stale without a sign."""
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    made = [match.span() for match in TABLES.MARKED.finditer(text)]
    for table in NUMBERS.finditer(text):
        if any(begin <= table.start() < end for begin, end in made):
            continue
        paragraph = text[: table.start()].rstrip().rpartition("\n\n")[2]
        named = set(re.findall(r"`make ([a-z-]+)", paragraph))
        assert named & targets, f"{page.name}: between no markers, and no make target before it: {table[0][:80]}"


def test_blocks_of_the_pages_are_known_and_all_of_them_are_shown():
    """A block with a misspelt name would keep its numbers for ever; one that no page has is made for nobody."""
    names = [name for page in TABLES.PAGES for _, name, *_ in TABLES.MARKED.findall((ROOT / page).read_text())]
    assert {name for name in names if not name.startswith("picture-")} == set(TABLES.BLOCKS)
    for page in TABLES.PAGES:
        text = (ROOT / page).read_text()
        assert text.count("<!-- bench:") == text.count("<!-- /bench -->") == len(TABLES.MARKED.findall(text)), page


@pytest.mark.parametrize("page", TABLES.PAGES)
def test_page_has_the_numbers_of_the_files(page):
    """An edited number would be found by nobody else; `python bench/tables.py` writes them again."""
    found = TABLES.documents(ROOT / "bench" / "results")
    text = (ROOT / page).read_text()
    assert text == TABLES.filled(text, page, found, TABLES.pictures(ROOT / TABLES.PICTURES))


def test_files_of_results_follow_the_schema():
    """They are what somebody else will want to read."""
    schema = json.loads(records.SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in (ROOT / "bench" / "results").glob("*.json"):
        jsonschema.validate(json.loads(path.read_text()), schema)


def option_of(step, name):
    """Return the list behind an option of a step of bench/publish.py."""
    return step.command[step.command.index(name) + 1].split(",")


def test_steps_of_the_report_are_commands_that_will_run():
    """A misspelt row is found before the three quarters of an hour, and not at their end."""
    steps = {step.name: step for step in PUBLISH.STEPS}
    measured, cases = {"c", "c-raw"}, set()
    for step in steps.values():
        if "--peers" in step.command:
            peers.plan(option_of(step, "--cases"), option_of(step, "--peers"), 2, 1.0)
            measured |= set(option_of(step, "--peers"))
            assert not cases & set(option_of(step, "--cases")), "a case in two files"
            cases |= set(option_of(step, "--cases"))
    assert set(option_of(steps["fanout"], "--servers")) <= set(fanout_servers.SERVERS)
    shown = [TABLES.FRAMED_ROWS, TABLES.RAW_ROWS, TABLES.SIZE_ROWS]
    assert {row for rows in shown for row in rows.values()} | set(TABLES.IDLE_ROWS) <= measured
    columns = [TABLES.FRAMED_COLUMNS, TABLES.RAW_COLUMNS, TABLES.SIZE_COLUMNS]
    assert {case for each in columns for case in each} <= cases
    assert set(TABLES.FRAMING_ROWS) <= {case.name for case in framing.CASES}


def test_report_of_an_unknown_step_exits_2():
    """Whoever measures one thing again must not measure nothing."""
    command = [sys.executable, str(ROOT / "bench" / "publish.py"), "--only", "peers-rwa"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, "no step peers-rwa; there are peers-framed" in found.stderr) == (2, True)


def test_step_that_failed_leaves_the_last_runs_results(tmp_path, monkeypatch, capfd):
    """Half a comparison in the place of a whole one would take numbers off the page, and be found hours later."""
    monkeypatch.setattr(TABLES, "ROOT", tmp_path)
    results = tmp_path / "results"
    results.mkdir()
    (results / "framing.json").write_text("the last run's")
    step = PUBLISH.Step("framing", ["evloop", "bench", "framing", "--only", "no such case"], [])
    assert not PUBLISH.run(step, results, False)
    assert (results / "framing.json").read_text() == "the last run's"
    assert "no result of every case, so the last run's stay" in capfd.readouterr().out


@pytest.mark.slow
def test_step_that_is_whole_replaces_the_last_runs_results(tmp_path, monkeypatch):
    """The other way round, with a command that measures."""
    monkeypatch.setattr(TABLES, "ROOT", tmp_path)
    step = PUBLISH.Step("framing", ["evloop", "bench", "framing", "--rounds", "9"], ["--only", "encode 64 batch"])
    (tmp_path / "framing.json").write_text("the last run's")
    assert PUBLISH.run(step._replace(quick=[*step.quick, "--rounds", "2"]), tmp_path, True)
    assert list(records.by_case(records.read(tmp_path / "framing.json"))) == ["encode 64 batch"]


def test_missing_cases_are_those_with_a_title_and_no_row(tmp_path):
    """Who stops a comparison after an hour has a valid file, of some of its cases."""
    path = tmp_path / "a.json"
    assert PUBLISH.missing_cases(path) == ["every case"]
    path.touch()
    assert PUBLISH.missing_cases(path) == ["every case"]
    for cases, lacking in (
        ({}, ["every case"]),
        ({"a": {"c": "FAILED"}}, ["b"]),
        ({"a": {"c": []}, "b": {"c": []}}, []),
    ):
        records.write(path, document("peers", cases, titles={"a": "A", "b": "B"}))
        assert PUBLISH.missing_cases(path) == lacking


def test_attend_command_that_hangs_is_told_to_end():
    """A night's run must not wait until the morning for one step."""
    assert PUBLISH.attend(["sleep", "60"], 0.05) == -signal.SIGINT
    assert PUBLISH.attend(["true"]) == 0


def document(tool, cases, **more):
    found = records.document(
        tool, [], {}, {"cpu": "a machine", "python": "CPython 3", "evloop": "1", "method": "4 rounds"}
    )
    for case, results in cases.items():
        found["results"] += records.rows(case, results)
    return {**found, "when": "2026-11-21T00:00:00Z", **more}


def cpu(*values):
    return [{"server": {"us_per_message": value}} for value in values]


def test_tables_have_the_better_malloc_the_ratio_and_what_is_noise():
    """What the README shows of a file: one row of two settings of malloc, and = where nobody has won."""
    rows = {"c": cpu(4, 4, 4), "evloop-batch": cpu(4.02, 4.0, 4.1), "uvloop-protocol": cpu(8, 8, 8),
            "uvloop-protocol+malloc": cpu(6, 6.1, 6), "asyncio-protocol": cpu(20), "trio-server": "FAILED"}  # fmt: skip
    found = {"a": document("peers", {"c100p1s64": rows, "c100p16s64": {"c": cpu(0.3), "uvloop-protocol": cpu(0.6)}})}
    assert TABLES.framed(found).splitlines()[2:] == [
        "| C, epoll | 4.00 (1.00) | 0.300 (1.00) |",
        "| evloop, `frames_received` | 4.02 (= 1.00) | - |",
        "| asyncio Protocol on uvloop, the better malloc | 6.00 (1.50) | 0.600 (= 2.00) |",
        "| asyncio Protocol on asyncio | 20.0 (= 5.00) | - |",
        "| trio | FAILED | - |",
    ]
    assert "| trio-server | FAILED |" in TABLES.BLOCKS["peers"](found)
    assert TABLES.BLOCKS["machine"](found) == "a machine; CPython 3; evloop 1; 4 rounds; 2026-11-21."


def test_machine_of_several_files_says_what_each_has_of_its_own():
    """One of them measured again, a week later or with fewer rounds, must not pass for the others."""
    notes = {
        "cpu": "a machine",
        "evloop": "1",
        "missing": "not installed: trio; pip install trio",
        "method": "5 rounds",
    }
    found = {"a": document("peers", {}), "b": document("peers", {}, when="2026-11-28T00:00:00Z", notes=notes)}
    assert TABLES.BLOCKS["machine"](found).splitlines() == [
        "a machine; evloop 1.",
        "",
        "- `a`: CPython 3; 4 rounds; 2026-11-21.",
        "- `b`: not installed: trio; pip install trio; 5 rounds; 2026-11-28.",
    ]


def test_missed_aims_are_those_of_the_rows_we_lose():
    """Where we miss our own aims stands in the README, whoever else is ahead of us in docs/benchmarks.md."""
    lines = [
        "c100p1s64: evloop-batch costs more than c 1.08x (aim 1.05x), gevent-server 1.03x",
        "c100p1s64: evloop-function costs more than uvloop-protocol 1.10x",
        "raw-c1s64: evloop-aio-raw costs more than the aim (1.1x u, aim 1.00x)",
        "raw-c1s64: evloop-aio-raw+malloc costs more than the aim (1.1x u, aim 1.00x)",
    ]
    found = {"a": document("peers", {}, lost=lines)}
    assert TABLES.BLOCKS["missed"](found).splitlines() == [
        "- 100 connections, 1 in flight on each, 64 bytes (`c100p1s64`): evloop-batch 1.08x (aim 1.05x)",
        "- 1 connection, 1 in flight on each, 64 bytes unframed (`raw-c1s64`): evloop-aio-raw (1.1x u, aim 1.00x)",
    ]
    assert TABLES.BLOCKS["lost"](found).count("\n- ") == 3
    assert TABLES.BLOCKS["missed"]({"a": document("peers", {}, lost=[])}) == "- none in this run"


def test_other_blocks_of_a_file_of_each_tool():
    """Each tool's file fills its blocks."""
    frames = {"cloop": [{"ns_per_frame": 10.0}] * 3, "evloop": [{"ns_per_frame": 11.5}] * 3}
    task = {"uvloop": [{"ns_per_operation": 10.0}], "evloop": [{"ns_per_operation": 5.0}]}
    fanout = {"n10p1s100o1": {"redis": cpu(2.0), "floor": cpu(1.0)}, "n10p1s64o1": {}}
    found = {
        "framing": document("framing", {"decode 64 full": frames}, titles={"decode 64 full": "decode 64 B"}),
        "loop": document("loop", {"task": task}),
        "fanout": document("fanout", fanout, lost=[]),
        "peers-idle": document("peers", {"idle": {"evloop-function": [{"bytes_per_connection": 911.0}]}}),
    }
    assert "| decode 64 B | 10.0 (1.00) | 11.5 (1.15) | - |" in TABLES.BLOCKS["framing"](found)
    assert "cost 0.50 (task) to 0.50 (task) of what they cost on uvloop" in TABLES.BLOCKS["loop"](found)
    assert TABLES.BLOCKS["fanout"](found).splitlines()[0].endswith("| 10 subscribers, 1 outstanding |")
    assert [line[:7] for line in TABLES.BLOCKS["fanout"](found).splitlines()[2:]] == ["| floor", "| redis"]
    assert TABLES.BLOCKS["idle"](found) == "An idle connection adds 911 bytes with a function."
    for name, make in TABLES.BLOCKS.items():
        assert make({}) is None, name


def test_filled_leaves_blocks_without_files_and_refuses_unknown_ones():
    """A page can be filled by parts; a misspelt block is an error."""
    text = "a\n<!-- bench:loop -->\nold\n<!-- /bench -->\n<!-- bench:picture-x -->\n<!-- /bench -->\nb"
    assert TABLES.filled(text, "README.md", {}, []) == text
    assert "![x-1](docs/pictures/x-1.svg)" in TABLES.filled(text, "README.md", {}, ["w", "x-1"])
    assert "![x-1](pictures/x-1.svg)" in TABLES.filled(text, "docs/benchmarks.md", {}, ["x-1"])
    with pytest.raises(KeyError, match="lop"):
        TABLES.filled(text.replace("bench:loop", "bench:lop"), "README.md", {}, [])
