"""The door of the reactor seam: which twin one gets, and what an absent or a broken extension does.

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
ASK = "from evloop.reactor import IMPLEMENTATION, Reactor; print(IMPLEMENTATION, Reactor.__module__)"
WARNING = "RuntimeWarning: evloop._reactor is not built"


def environment(**changes):
    """Return this process's environment without EVLOOP_PURE, and with *changes*."""
    env = {name: value for name, value in os.environ.items() if name != "EVLOOP_PURE"}
    return {**env, **changes}


@pytest.fixture
def bare(tmp_path, pytestconfig):
    """A directory with a copy of the package that lacks this one extension; the others are there."""
    needs_compiled(pytestconfig)
    shutil.copytree(PACKAGE, tmp_path / "evloop", ignore=shutil.ignore_patterns("_reactor.*.so", "__pycache__"))
    return tmp_path


def ask(bare, code=ASK, **env):
    """Run *code* with the copy in front of any installed evloop."""
    prefix = (
        f"import sys; sys.path.insert(0, {str(bare)!r}); sys.meta_path[:] = "
        "[finder for finder in sys.meta_path if not getattr(finder, '__module__', '').startswith('__editable__')]; "
    )
    return run_python(prefix + code, env=environment(**env), cwd=bare)


@pytest.mark.parametrize("env", [{}, {"EVLOOP_PURE": ""}, {"EVLOOP_PURE": "0"}], ids=["unset", "empty", "0"])
def test_reactor_door_without_a_wish_gives_the_compiled_twin(pytestconfig, env):
    """A user who asks for nothing gets the fast one, and in silence."""
    needs_compiled(pytestconfig)
    assert run_python(ASK, env=environment(**env)) == (0, "cython evloop._reactor\n", "")


def test_reactor_door_evloop_pure_1_gives_the_pure_twin():
    """The way to debug into a turn; no warning, since it was asked for."""
    assert run_python(ASK, env=environment(EVLOOP_PURE="1")) == (0, "python evloop._reactor_py\n", "")


def test_reactor_door_evloop_pure_other_value_is_value_error():
    """EVLOOP_PURE=false must not mean true."""
    status, _, err = run_python(ASK, env=environment(EVLOOP_PURE="false"))
    assert status == 1
    assert "ValueError: EVLOOP_PURE must be 0 or 1, not 'false'" in err


def test_reactor_door_absent_extension_warns_once_and_falls_back(bare):
    """It works, several times slower, and says so; whoever knows it says so, too."""
    status, out, err = ask(bare)
    assert (status, out, err.count(WARNING)) == (0, "python evloop._reactor_py\n", 1)
    assert ask(bare, EVLOOP_PURE="1") == (0, "python evloop._reactor_py\n", "")


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import a_module_that_is_not_there", "No module named 'a_module_that_is_not_there'"),
        ("raise ImportError('undefined symbol: PyOld')", "ImportError: undefined symbol: PyOld"),
        ("", "ImportError: cannot import name 'IMPLEMENTATION'"),
    ],
    ids=["lacks another module", "lacks a symbol", "empty"],
)
def test_reactor_door_broken_extension_is_import_error(bare, source, error):
    """Only the absence of the extension itself is forgiven."""
    (bare / "evloop" / "_reactor.py").write_text(source)
    status, out, err = ask(bare)
    assert (status, out) == (1, "")
    assert error in err
    assert WARNING not in err


def test_reactor_door_both_twins_offer_every_name():
    """A name that one twin lacks would break whoever switches."""
    code = "import evloop.reactor as door; print([n for n in door.__all__ if not hasattr(door, n)])"
    for pure in ("0", "1"):
        assert run_python(code, env=environment(EVLOOP_PURE=pure))[1] == "[]\n"
