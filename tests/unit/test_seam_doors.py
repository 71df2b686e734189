"""The doors of the reactor's and the connection's seams: which twin one gets, and what an absent or broken one does.

Each test asks a fresh interpreter, because the choice is made at import.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from feeding import run_python
from twins import needs_compiled

import evloop

PACKAGE = Path(evloop.__file__).parent
CLASSES = {"framing": "Framing", "reactor": "Reactor", "connection": "Connection"}
WARNING = "RuntimeWarning: evloop._{} is not built"
SEAMS = pytest.mark.parametrize("seam", ["reactor", "connection"])


def environment(**changes):
    """Return this process's environment without EVLOOP_PURE, and with *changes*."""
    env = {name: value for name, value in os.environ.items() if name != "EVLOOP_PURE"}
    return {**env, **changes}


def question(*seams):
    """Return the code that prints, for each seam, its implementation and the module of its class."""
    lines = [
        f"from evloop.{seam} import IMPLEMENTATION as i, {CLASSES[seam]} as c; print(i, c.__module__)" for seam in seams
    ]
    return "\n".join(lines)


def answer(**implementations):
    """Return what is printed then."""
    ends = {"cython": "", "python": "_py"}
    return "".join(f"{wanted} evloop._{seam}{ends[wanted]}\n" for seam, wanted in implementations.items())


@pytest.fixture
def without(tmp_path, pytestconfig):
    """Return a function: a directory with a copy of the package that lacks one seam's extension alone."""
    needs_compiled(pytestconfig)

    def copy(seam):
        ignored = shutil.ignore_patterns(f"_{seam}.*.so", "__pycache__")
        shutil.copytree(PACKAGE, tmp_path / "evloop", ignore=ignored)
        return tmp_path

    return copy


def ask(bare, code, **env):
    """Run *code* with the copy in front of any installed evloop."""
    prefix = (
        f"import sys; sys.path.insert(0, {str(bare)!r}); sys.meta_path[:] = "
        "[finder for finder in sys.meta_path if not getattr(finder, '__module__', '').startswith('__editable__')]\n"
    )
    return run_python(prefix + code, env=environment(**env), cwd=bare)


@SEAMS
@pytest.mark.parametrize("env", [{}, {"EVLOOP_PURE": ""}, {"EVLOOP_PURE": "0"}], ids=["unset", "empty", "0"])
def test_door_without_a_wish_gives_the_compiled_twin(pytestconfig, seam, env):
    """A user who asks for nothing gets the fast one, and in silence."""
    needs_compiled(pytestconfig)
    assert run_python(question(seam), env=environment(**env)) == (0, answer(**{seam: "cython"}), "")


@SEAMS
def test_door_evloop_pure_1_gives_the_pure_twin(seam):
    """The way to debug into a turn, or a read; no warning, since it was asked for."""
    assert run_python(question(seam), env=environment(EVLOOP_PURE="1")) == (0, answer(**{seam: "python"}), "")


@SEAMS
def test_door_evloop_pure_other_value_is_value_error(seam):
    """EVLOOP_PURE=false must not mean true."""
    status, _, err = run_python(question(seam), env=environment(EVLOOP_PURE="false"))
    assert status == 1
    assert "ValueError: EVLOOP_PURE must be 0 or 1, not 'false'" in err


@SEAMS
def test_door_absent_extension_warns_once_and_falls_back(without, seam):
    """It works, several times slower, and says so; whoever knows it says so, too."""
    bare = without(seam)
    status, out, err = ask(bare, question(seam))
    assert (status, out, err.count(WARNING.format(seam))) == (0, answer(**{seam: "python"}), 1)
    assert ask(bare, question(seam), EVLOOP_PURE="1") == (0, answer(**{seam: "python"}), "")


@SEAMS
@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import a_module_that_is_not_there", "No module named 'a_module_that_is_not_there'"),
        ("raise ImportError('undefined symbol: PyOld')", "ImportError: undefined symbol: PyOld"),
        ("", "ImportError: cannot import name 'IMPLEMENTATION'"),
    ],
    ids=["lacks another module", "lacks a symbol", "empty"],
)
def test_door_broken_extension_is_import_error(without, seam, source, error):
    """Only the absence of the extension itself is forgiven."""
    bare = without(seam)
    (bare / "evloop" / f"_{seam}.py").write_text(source)
    status, out, err = ask(bare, question(seam))
    assert (status, out) == (1, "")
    assert error in err
    assert WARNING.format(seam) not in err


@SEAMS
def test_door_both_twins_offer_every_name(seam):
    """A name that one twin lacks would break whoever switches."""
    code = f"import evloop.{seam} as door; print([n for n in door.__all__ if not hasattr(door, n)])"
    for pure in ("0", "1"):
        assert run_python(code, env=environment(EVLOOP_PURE=pure))[1] == "[]\n"


@pytest.mark.parametrize("pure", ["framing", "reactor"])
def test_connection_door_takes_the_pure_twin_where_one_of_its_parts_is_pure(without, pure):
    """The compiled connection calls both through C: with one of them in Python there is one reason, and one warning."""
    parts = {"framing": "cython", "reactor": "cython", pure: "python"}
    status, out, err = ask(without(pure), question("framing", "reactor", "connection"))
    assert (status, out) == (0, answer(**parts, connection="python"))
    assert (err.count("is not built"), err.count(WARNING.format(pure))) == (1, 1)


def test_connection_door_without_its_extension_leaves_the_other_seams_compiled(without):
    """What is built is used: the pure connection runs on the compiled reactor, with the compiled framing."""
    expected = answer(framing="cython", reactor="cython", connection="python")
    assert ask(without("connection"), question("framing", "reactor", "connection"))[:2] == (0, expected)


def test_connection_door_broken_extension_with_evloop_pure_1_is_not_touched(without):
    """The pure twin must work on a machine where the extension crashes."""
    bare = without("connection")
    (bare / "evloop" / "_connection.py").write_text("raise SystemExit('imported')")
    assert ask(bare, question("connection"), EVLOOP_PURE="1") == (0, answer(connection="python"), "")
