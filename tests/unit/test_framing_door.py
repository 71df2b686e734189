"""The door of the framing seam: which twin one gets, and what an absent or a broken extension does.

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
ASK = "from evloop.framing import IMPLEMENTATION, Framing; print(IMPLEMENTATION, Framing.__module__)"
# The message has to tell the remedy; a test that repeats the whole text would only be edited along with it.
WARNING = "RuntimeWarning: evloop._framing is not built"


def environment(**changes):
    """Return this process's environment without EVLOOP_PURE, and with *changes*."""
    env = {name: value for name, value in os.environ.items() if name != "EVLOOP_PURE"}
    return {**env, **changes}


@pytest.fixture
def bare(tmp_path):
    """A directory with a copy of the package's Python files and no extension; the way to import it from there."""
    shutil.copytree(PACKAGE, tmp_path / "evloop", ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.pyx", "*.c"))
    return tmp_path


def ask(bare, code=ASK, **env):
    """Run *code* with the copy in front of any installed evloop."""
    check = f"import evloop; assert evloop.__file__.startswith({str(bare)!r}), evloop.__file__; "
    prefix = f"import sys; sys.path.insert(0, {str(bare)!r}); sys.meta_path[:] = "
    prefix += (
        "[finder for finder in sys.meta_path if not getattr(finder, '__module__', '').startswith('__editable__')]; "
    )
    return run_python(prefix + check + code, env=environment(**env), cwd=bare)


@pytest.fixture
def compiled_wanted(pytestconfig):
    """Skip where the extension may be missing."""
    needs_compiled(pytestconfig)


@pytest.mark.parametrize("env", [{}, {"EVLOOP_PURE": ""}, {"EVLOOP_PURE": "0"}], ids=["unset", "empty", "0"])
def test_door_without_a_wish_gives_the_compiled_twin(compiled_wanted, env):
    """A user who asks for nothing gets the fast one, and in silence."""
    assert run_python(ASK, env=environment(**env)) == (0, "cython evloop._framing\n", "")


def test_door_evloop_pure_1_gives_the_pure_twin():
    """The way to debug into the decoder; no warning, since it was asked for."""
    assert run_python(ASK, env=environment(EVLOOP_PURE="1")) == (0, "python evloop._framing_py\n", "")


@pytest.mark.parametrize("value", ["2", "yes", "true", " 1", "01", "no", "false"])
def test_door_evloop_pure_other_value_is_value_error(value):
    """EVLOOP_PURE=false must not mean true."""
    status, out, err = run_python(ASK, env=environment(EVLOOP_PURE=value))
    assert (status, out) == (1, "")
    assert f"ValueError: EVLOOP_PURE must be 0 or 1, not {value!r}" in err


def test_door_absent_extension_warns_and_falls_back(bare):
    """A wheel without a compiled part works, ten times slower, and says so once."""
    status, out, err = ask(bare)
    assert (status, out) == (0, "python evloop._framing_py\n")
    assert err.count(WARNING) == 1
    assert "EVLOOP_PURE=1" in err


def test_door_absent_extension_is_an_error_where_warnings_are(bare):
    """CI runs with -W error, so that it cannot test the pure twin twice."""
    status, out, err = ask(bare, PYTHONWARNINGS="error::RuntimeWarning")
    assert (status, out) == (1, "")
    assert WARNING in err


def test_door_absent_extension_with_evloop_pure_1_is_silent(bare):
    """Whoever knows it says so."""
    assert ask(bare, EVLOOP_PURE="1") == (0, "python evloop._framing_py\n", "")


def test_door_extension_that_is_no_shared_object_is_import_error(bare):
    """A file cut short by a full disk: broken, not absent."""
    from importlib.machinery import EXTENSION_SUFFIXES

    (bare / "evloop" / f"_framing{EXTENSION_SUFFIXES[0]}").write_text("not a shared object")
    status, out, err = ask(bare)
    assert (status, out) == (1, "")
    assert "ImportError" in err
    assert WARNING not in err


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("import evloop._framing_gone", "ModuleNotFoundError: No module named 'evloop._framing_gone'"),
        ("raise ImportError('undefined symbol: PyOld')", "ImportError: undefined symbol: PyOld"),
        ("raise ModuleNotFoundError('nameless')", "ModuleNotFoundError: nameless"),
        ("", "ImportError: cannot import name 'IMPLEMENTATION'"),
    ],
    ids=["lacks another module", "lacks a sibling", "lacks a symbol", "nameless", "empty"],
)
def test_door_extension_that_cannot_be_imported_is_import_error(bare, source, error):
    """Ten times slower in silence helps nobody: only the absence of the extension itself is forgiven."""
    (bare / "evloop" / "_framing.py").write_text(source)
    status, out, err = ask(bare)
    assert (status, out) == (1, "")
    assert error in err
    assert WARNING not in err


def test_door_broken_extension_with_evloop_pure_1_is_not_touched(bare):
    """The pure twin must work on a machine where the extension crashes."""
    (bare / "evloop" / "_framing.py").write_text("raise SystemExit('imported')")
    assert ask(bare, EVLOOP_PURE="1") == (0, "python evloop._framing_py\n", "")


def test_door_pickle_of_either_twin_loads_in_a_process_with_the_other(compiled_wanted):
    """A compiled master and a pure worker speak of the same framing."""
    dump = "import pickle; from evloop.framing import Framing; "
    dump += "print(pickle.dumps(Framing(2, 'little', magic=b'x')).hex())"
    load = "import pickle, sys; f = pickle.loads(bytes.fromhex(sys.argv[1])); print(type(f).__module__, f)"
    for writer, reader, module in (("0", "1", "evloop._framing_py"), ("1", "0", "evloop._framing")):
        _, out, _ = run_python(dump, env=environment(EVLOOP_PURE=writer))
        done = run_python(load, out.strip(), env=environment(EVLOOP_PURE=reader))
        assert done == (0, f"{module} Framing(2, 'little', magic=b'x', max_frame=65535)\n", "")


def test_door_exports_are_all_there():
    """from evloop.framing import * is what __all__ promises."""
    from evloop import framing

    assert [name for name in framing.__all__ if not hasattr(framing, name)] == []
    assert framing.DEFAULT_MAX_FRAME == 1 << 20


@pytest.mark.parametrize("name", ["framing.py", "_framing_py.py", "_framing_spec.py", "_framing.pyx", "errors.py"])
def test_framing_sources_import_no_socket_clock_or_log(name):
    """Framing is sans-I/O: bytes in, frames out, on any loop.  Read in the source, since the package imports more."""
    lines = (PACKAGE / name).read_text().splitlines()
    imports = [line.split()[1].split(".")[0] for line in lines if line.lstrip().startswith(("import ", "from "))]
    assert set(imports) & {"socket", "select", "selectors", "asyncio", "time", "logging", "threading"} == set()
    assert imports
