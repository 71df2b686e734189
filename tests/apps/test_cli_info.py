"""``evloop info``: what a bug report needs, and advice that fits the machine."""

from __future__ import annotations

import json
import resource

import pytest
from programs import run_program, shell

import evloop
from evloop.cli.info import advice, collect


def test_info_json_has_the_facts_of_this_process():
    """A program reads it: the groups and their names are an interface."""
    result = run_program("info", "--json")
    facts = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (0, b"")
    assert list(facts) == ["versions", "system", "implementations", "limits", "advice"]
    assert facts["versions"]["evloop"] == evloop.__version__
    assert set(facts["implementations"]) == {"framing", "reactor", "connection", "group"}
    assert facts["limits"]["open_files_soft"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_info_text_has_a_line_for_each_fact():
    """The same for people, and for grep."""
    facts = json.loads(run_program("info", "--json").stdout)
    text = run_program("info").stdout.decode()
    for group in ("versions", "system", "implementations", "limits"):
        for name in facts[group]:
            assert f"\n  {name.replace('_', ' ')} " in text


def test_info_of_the_pure_implementation_says_how_to_leave_it():
    """Ten times slower is worth a line, and the line must name what to change."""
    facts = json.loads(run_program("info", "--json", env={"EVLOOP_PURE": "1"}).stdout)
    assert facts["implementations"]["framing"] == "python"
    assert facts["advice"][0].endswith("; unset EVLOOP_PURE")


def test_info_of_a_low_limit_advises_to_raise_it():
    """1024 open files is the first wall that a server of many connections meets."""
    result = shell('ulimit -Sn 256; exec "$@"', "info")
    assert b"the soft limit is 256 open files; evloop serve raises it by itself" in result.stdout


@pytest.fixture
def facts():
    """The facts of a machine that needs no advice."""
    found = collect()
    found["implementations"] = dict.fromkeys(found["implementations"], "cython")
    found["limits"] = {"open_files_soft": 10_064, "open_files_hard": 10_064, "somaxconn": 1024}
    return found


def test_advice_is_not_given_without_need(facts):
    """Advice that is always there is not read."""
    assert advice(facts) == []
    facts["limits"] = {"open_files_soft": None, "open_files_hard": None, "somaxconn": None}
    assert advice(facts) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"open_files_soft": 10_063}, "the soft limit is 10063 open files"),
        ({"open_files_soft": 10_064, "open_files_hard": None}, "the soft limit is 10064 open files"),
        ({"open_files_soft": 10_063, "open_files_hard": 10_063}, "the hard limit of 10063 open files allows 9999"),
        ({"somaxconn": 1023}, "net.core.somaxconn=1023 cuts a backlog of 1024; sysctl -w net.core.somaxconn=4096"),
    ],
)
def test_advice_begins_one_below_what_is_needed(facts, change, text):
    """limit-1: the value, and the knob to turn."""
    facts["limits"].update(change)
    assert [sentence.startswith(text) for sentence in advice(facts)] == [True]
