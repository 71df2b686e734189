"""Intervals, files of results, and what has changed between two: no change is called one that is none."""

from __future__ import annotations

import json

import jsonschema
import pytest

from evloop.bench import compare, records
from evloop.bench.intervals import confidence, paired, unpaired
from evloop.cli.program import run

SCHEMA = json.loads(records.SCHEMA_FILE.read_text())


def document(costs, tool="peers"):
    """Return a document whose rows have these figures of CPU: {(case, name): [cost, ...] or why not}."""
    found = records.document(tool, ["bench", tool], {"rounds": 5}, {"C": "gcc 12"})
    cases = {}
    for (case, name), values in costs.items():
        rounds = values if isinstance(values, str) else [{"server": {"us_per_message": each}} for each in values]
        cases.setdefault(case, {})[name] = rounds
    for case, results in cases.items():
        found["results"] += records.rows(case, results)
    jsonschema.validate(found, SCHEMA)
    return found


@pytest.fixture
def files(tmp_path):
    """Return a function that writes documents and gives their paths as text."""

    def write(*documents):
        paths = [tmp_path / f"{number}.json" for number in range(len(documents))]
        for path, found in zip(paths, documents, strict=True):
            records.write(path, found)
        return [str(path) for path in paths]

    return write


def test_paired_drift_of_the_machine_cancels_out():
    """A machine that is twice as slow in the third round is so to both."""
    found = paired([2.0, 2.0, 4.0, 2.02, 2.0, 2.0], [1.0, 1.0, 2.0, 1.0, 1.0, 1.0])
    assert found.times == pytest.approx(2.0, abs=0.01)
    assert found.more and found.low > 1.9 and found.high < 2.1


@pytest.mark.parametrize(
    ("mine", "same"),
    [
        ([1.019] * 6, True),  # an interval without 1, but too little to mean anything
        ([1.021] * 6, False),
        ([1.5, 0.9, 1.5, 0.9, 1.2, 1.1], True),
        ([1.5], True),  # one round has no interval
    ],
)
def test_paired_is_the_same_within_its_interval_or_two_percent(mine, same):
    """What noise can explain is not reported as a win, nor as a loss."""
    assert paired(mine, [1.0] * len(mine)).same is same


def test_comparison_of_nothing_is_none():
    """A row that failed, or a clock that has not moved, has no ratio."""
    assert paired([], []) is None and paired([1.0], [0.0]) is None
    assert unpaired([], [1.0]) is None and unpaired([1.0], []) is None and unpaired([1.0], [0.0]) is None


def test_unpaired_one_round_tells_nothing():
    """Twice as much in a single round each may be a second of somebody else's work."""
    assert unpaired([2.0], [1.0, 1.0, 1.0]).same
    assert unpaired([2.0, 2.1, 2.0], [1.0, 1.0, 1.1]).more


@pytest.mark.parametrize(("rounds", "level"), [(0, 0), (1, 0), (2, 0.5), (4, 0.875), (6, 0.95), (100, 0.95)])
def test_confidence_of_few_rounds_is_said_as_it_is(rounds, level):
    """Smallest to largest of two rounds holds the truth half of the time, whatever the formula promises."""
    assert confidence(rounds) == pytest.approx(level, abs=0.02)


def test_write_is_read_back_and_has_a_round_a_line(files):
    """Files are kept and diffed for years."""
    found = document({("a", "c"): [1.0, 2.0], ("a", "x"): "FAILED: exit 5", ("b", "c"): []})
    [path] = files(found)
    with open(path) as file:
        text = file.read()
    assert json.loads(text) == found
    assert sum("us_per_message" in line for line in text.splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "is not JSON"),
        ("[]", "has the schema None"),
        ('{"schema": "evloop-bench/2"}', "has the schema 'evloop-bench/2', and 'evloop-bench/1' is needed"),
        ('{"schema": "evloop-bench/1", "results": [{}]}', "has a result without case, name or rounds"),
        ('{"schema": "evloop-bench/1"}', "has a result without case, name or rounds"),
    ],
)
def test_compare_of_a_file_that_is_none_is_one_line(text, said, tmp_path, files, capfd):
    """The wrong file is the usual mistake, and a KeyError no answer."""
    wrong = tmp_path / "wrong.json"
    wrong.write_text(text)
    [right] = files(document({("a", "c"): [1.0]}))
    assert run(["bench", "compare", right, str(wrong)]) == 1
    err = capfd.readouterr().err
    assert said in err and err.startswith("evloop: bench compare: ") and err.count("\n") == 1


def test_compare_tells_change_from_noise_and_names_what_is_missing(files, capsys):
    """Side by side, with nothing left out in silence."""
    before = {
        ("a", "c"): [1.0] * 5,
        ("a", "fast"): [4.0, 4.1, 4.0],
        ("a", "noisy"): [1.0, 2.0, 1.5],
        ("a", "old"): [1.0],
    }
    after = {
        ("a", "c"): [1.0] * 5,
        ("a", "fast"): [2.0, 2.1, 2.0],
        ("a", "noisy"): [1.1, 2.1, 1.6],
        ("a", "new"): "FAILED",
    }
    paths = files(document(before), {**document(after), "params": {"rounds": 9}})
    assert run(["bench", "compare", *paths]) == 0
    out = capsys.readouterr().out
    rows = {line[18:44].strip(): line for line in out.splitlines() if "CPU us" in line}
    assert set(rows) == {"c", "fast", "noisy"}
    assert "-50.0 %" in rows["fast"] and rows["fast"].endswith("better")
    assert not rows["noisy"].endswith(("better", "worse"))
    assert "DIFFERENT rounds: 5 before, 9 after" in out
    assert "only before: a old" in out and "only after: a new" in out and "after: a new FAILED" in out
    assert out.endswith("1 better, 0 worse, 2 no change\n")
    assert max(len(line) for line in out.splitlines()) <= 120


def test_compare_relative_to_a_row_is_blind_to_the_machine(files, capsys):
    """The same program on a machine half as fast has not become worse."""
    before = {("a", "c"): [1.0, 1.1, 1.0], ("a", "x"): [2.0, 2.2, 2.0], ("b", "x"): [1.0]}
    after = {("a", "c"): [2.0, 2.2, 2.0], ("a", "x"): [4.0, 4.4, 4.0], ("b", "x"): [1.0]}
    paths = files(document(before), document(after))
    assert run(["bench", "compare", *paths, "--fail-if", "cpu>5%"]) == 9
    assert run(["bench", "compare", *paths, "--relative-to", "c", "--fail-if", "cpu>5%"]) == 0
    assert capsys.readouterr().out.endswith("0 better, 0 worse, 1 no change\n")


@pytest.mark.parametrize(
    ("condition", "code"), [("cpu>9%", 9), ("cpu > 11%", 0), ("cpu<-5%", 0), ("rate<-5%", 0), ("cpu>-50%", 9)]
)
def test_compare_fail_if_is_exit_code_9(condition, code, files, capfd):
    """A gate in somebody's CI must fire on a change, and only on one."""
    paths = files(document({("a", "x"): [1.0] * 6}), document({("a", "x"): [1.1] * 6}))
    assert run(["bench", "compare", *paths, "--fail-if", condition]) == code
    said = f"evloop: bench compare: --fail-if {condition}: a x +10.0 %\n"
    assert capfd.readouterr().err == (said if code else "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--fail-if", "cpu"], "--fail-if: bad condition 'cpu'; write METRIC>PERCENT%"),
        (["--fail-if", "speed>5%"], "bad condition 'speed>5%'"),
        (["--metric", "speed"], "no metric speed; there are cpu, rate"),
    ],
    ids=str,
)
def test_compare_wrong_arguments_exit_2(arguments, text, files, capfd):
    """A condition that is never looked at is worse than none."""
    paths = files(document({("a", "x"): [1.0]}), document({("a", "x"): [1.0]}))
    assert run(["bench", "compare", *paths, *arguments]) == 2
    assert text in capfd.readouterr().err


def test_compare_files_without_a_common_row_exits_1(files, capfd):
    """No table at all would look like no change."""
    paths = files(document({("a", "x"): [1.0]}), document({("b", "x"): [1.0]}))
    assert run(["bench", "compare", *paths]) == 1
    assert "no row with a figure in common" in capfd.readouterr().err


def test_metrics_are_figures_of_the_schema():
    """A metric whose path nobody writes would compare nothing for ever."""
    properties = SCHEMA["$defs"]["round"]["properties"]
    for path, *_ in compare.METRICS.values():
        first, _, second = path.partition("/")
        assert first in properties
        assert not second or first == "latency_ns" or second in properties[first]["properties"]
