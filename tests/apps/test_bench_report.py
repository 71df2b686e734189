"""The page of results: whole without a network, every row in it, pictures that can be drawn of every tool's file."""

from __future__ import annotations

import itertools
import re
import sys

import pytest

from evloop.bench import plots, records, report
from evloop.cli.program import run

pytest.importorskip("matplotlib", reason="pip install matplotlib")


@pytest.fixture(scope="module", autouse=True)
def fonts():
    """matplotlib keeps the fonts that it has used open."""
    plots.cost_bars("a", "A", {"c": [a_round(1.0)], "x": [a_round(1.0)]}, "c")


def a_round(cost, **more):
    return {
        "rate": 1e6 / cost,
        "latency_ns": {"p50": 10e3, "p99": 20e3},
        "curve": [[0, 1e3], [0.5, 10e3], [0.9, 15e3], [0.99, 20e3 * cost]],
        "server": {"us_per_message": cost, "busy": 0.5, "rss_bytes": 2**20},
        "client": {"client_bound": cost > 9},
        **more,
    }


def document(tool, cases, **more):
    found = records.document(tool, ["bench", tool], {}, {"C": "gcc <12>"})
    for case, results in cases.items():
        found["results"] += records.rows(case, results)
    return {**found, **more}


def peers():
    """Return what bench peers writes: two numbers of connections, idle ones, a row that failed, one without a base."""
    rows = {"c": [a_round(4.0), a_round(4.2)], "evloop-batch": [a_round(5.0), a_round(5.1)],
            "uvloop-raw": [a_round(20.0), a_round(20.0)], "uvloop-raw+malloc": [a_round(9.5), a_round(9.5)],
            "trio-server": "FAILED: <b>exit 5</b>"}  # fmt: skip
    idle = {"c": [{"server": {"rss_bytes": 2**20}, "bytes_per_connection": 64.0}]}
    cases = {"c10p1s64": rows, "c100p1s64": rows, "idle": idle, "idle-c1000": idle}
    return document("peers", cases, lost=["c10p1s64: evloop-batch costs more than c 1.25x"], titles={"idle": "silence"})


@pytest.mark.slow
def test_page_is_one_file_with_every_row_and_its_pictures_beside_it(tmp_path):
    """It is mailed and opened from a disk: nothing may be loaded, and nobody be left out."""
    files = report.write([peers()], tmp_path / "deep" / "page", ["a.json"])
    text = files[0].read_text()
    assert files[0].name == "index.html"
    assert set(re.findall(r'(?:src|href)="(.{10})', text)) == {"data:image"} and "<script" not in text
    for name in ("evloop-batch", "uvloop-raw+malloc", "trio-server", "FAILED: &lt;b&gt;exit 5", "gcc &lt;12&gt;"):
        assert name in text
    assert "evloop-batch costs more than c 1.25x" in text and "idle: silence" in text
    assert "&gt;= 105,263" in text  # the load was the bottleneck there
    names = ["c10p1s64-cpu", "c10p1s64-latency", "c100p1s64-cpu", "c100p1s64-latency", "connections-p1s64", "memory"]
    assert sorted(path.name for path in files[1:]) == sorted(
        f"peers-{name}.{kind}" for name in names for kind in ("svg", "png")
    )
    assert (tmp_path / "deep/page/peers-memory.png").read_bytes().startswith(b"\x89PNG")


def test_page_of_two_files_of_a_tool_keeps_the_pictures_of_both(tmp_path):
    """Two loads have the same case, and names that no file may have."""
    loads = [document("load", {"c1p4s64-20000/s 50%": {"127.0.0.1:9": [a_round(4.0)]}}) for _ in range(2)]
    files = report.write(loads, tmp_path, ["first.json", "second.json"])
    name = "load-c1p4s64-20000_s_50_-latency"
    assert [path.stem for path in files if path.suffix == ".svg"] == [name, f"second-{name}"]
    assert files[0].read_text().count("<img") == 2


@pytest.mark.slow
def test_pictures_of_the_same_figures_are_the_same_files():
    """They are kept under version control: a date in them would be a change each time."""
    cases = {"c1p1s64": {"c": [a_round(4.0)], "evloop-batch": [a_round(5.0)]}}
    first, second = (report.pictures(document("peers", cases)) for _ in range(2))
    assert [picture.svg for picture in first] == [picture.svg for picture in second]
    assert [picture.png for picture in first] == [picture.png for picture in second]


FANOUT = {f"n{n}p1s100o1": {"floor": [a_round(1.0)], "redis": [a_round(2.0)]} for n in (10, 100)}
FANOUT_NAMES = "n10p1s100o1-cpu n10p1s100o1-latency n100p1s100o1-cpu n100p1s100o1-latency subscribers-p1s100o1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "cases", "names"),
    [
        ("framing", {"decode": {"cloop": [{"ns_per_frame": 1.0}], "evloop": [{"ns_per_frame": 1.1}]}}, "ratios"),
        ("loop", {"task": {"uvloop": [{"ns_per_operation": 1.0}], "evloop": [{"ns_per_operation": 0.9}]}}, "ratios"),
        ("load", {"closed": {"echo": [a_round(4.0)]}}, "closed-latency"),
        ("fanout", FANOUT, FANOUT_NAMES),
        ("peers", {"c1p1s1": {"c": "FAILED: exit 3"}}, ""),
    ],
)
def test_pictures_of_each_tool(tool, cases, names):
    """Whatever --json writes can be drawn, and a file of failures is no error."""
    assert [picture.name for picture in report.pictures(document(tool, cases))] == [
        f"{tool}-{name}" for name in names.split()
    ]


def test_curve_from_a_histogram_is_that_of_its_samples():
    """The load writes its histogram; the shares must be those of the samples, and end where there is one left."""
    runs = [{"hist": [[100, 50], [200, 40], [300, 9], [400, 1]]}]
    points = plots.curve(runs)
    assert points[0] == (0, 100) and points[-1] == (pytest.approx(0.99), 400)
    at = {round(share, 3): ns for share, ns in points}
    assert at[0.438] == 100 and at[0.684] == 200 and at[0.9] == 300
    assert plots.curve([{}]) == []


def test_better_malloc_keeps_the_cheaper_of_two_settings():
    """What malloc makes of a server is no merit of the loop, nor its fault."""
    rows = {
        "x": [a_round(9.0)],
        "x+malloc": [a_round(2.0)],
        "y+malloc": [a_round(3.0)],
        "y": [a_round(1.0)],
        "z": "FAILED",
    }
    assert list(plots.better_malloc(rows)) == ["x+malloc", "y"]


def test_spread_keeps_labels_apart_and_in_order():
    """Names on top of each other name nothing."""
    places = plots.spread({"a": 0.5, "b": 0.5, "c": 0.98, "d": 1.0, "e": 1.0}, 0.1)
    found = sorted(places.values())
    assert all(after - before >= 0.0999 for before, after in itertools.pairwise(found))
    assert found[-1] <= 1.0 and list(places) == sorted(places, key=places.__getitem__)


@pytest.mark.slow
def test_report_writes_the_page_and_says_where(tmp_path, capsys):
    """The command, from files to a page."""
    records.write(tmp_path / "a.json", peers())
    assert run(["bench", "report", str(tmp_path / "a.json"), "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out/index.html, 6 pictures\n"


def test_report_without_matplotlib_names_what_to_install(tmp_path, monkeypatch, capfd):
    """It is an extra: a traceback would send the reader to the wrong place."""
    records.write(tmp_path / "a.json", peers())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["bench", "report", str(tmp_path / "a.json"), "-o", str(tmp_path / "out")]) == 1
    assert capfd.readouterr().err == "evloop: bench report: the pictures need matplotlib: pip install matplotlib\n"
    assert not (tmp_path / "out").exists()  # nor an empty page


def test_report_of_a_file_that_is_none_is_one_line(tmp_path, capfd):
    """The wrong file is the usual mistake."""
    (tmp_path / "a.json").write_text("{}")
    assert run(["bench", "report", str(tmp_path / "a.json"), "-o", str(tmp_path / "out")]) == 1
    err = capfd.readouterr().err
    assert "has the schema None" in err and err.count("\n") == 1
