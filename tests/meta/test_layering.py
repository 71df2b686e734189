"""Who may import whom, and how long a piece may get: the rules of the design, held by a machine."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

import evloop

PACKAGE = pathlib.Path(evloop.__file__).parent
SOURCES = sorted(path for path in PACKAGE.rglob("*.py"))
EXTENSIONS = sorted([*PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")])

# The twins of a seam, and the door that alone may choose between them.
DOORS = {
    "evloop._framing": "evloop.framing",
    "evloop._framing_py": "evloop.framing",
    "evloop._reactor": "evloop.reactor",
    "evloop._reactor_py": "evloop.reactor",
    "evloop._connection": "evloop.connection",
    "evloop._connection_py": "evloop.connection",
    "evloop._group": "evloop.group",
    "evloop._group_py": "evloop.group",
    "evloop.aio._session": "evloop.aio.sessions",
    "evloop.aio._session_py": "evloop.aio.sessions",
    "evloop.aio._transport": "evloop.aio.transports",
    "evloop.aio._streams": "evloop.aio.streams",
    "evloop.aio._core": "evloop.aio.core",
    "evloop.aio._datagram": "evloop.aio.core",
}
# A compiled seam stands on compiled ones: their C-level ways in are not the doors'.
COMPILED_ON = {
    "evloop._connection": {"evloop._framing", "evloop._reactor"},
    "evloop._group": {"evloop._connection"},
    "evloop.aio._session": {"evloop._connection", "evloop._reactor"},
    "evloop.aio._transport": {"evloop._reactor"},
    "evloop.aio._streams": {"evloop._reactor", "evloop.aio._transport"},
    "evloop.aio._core": {"evloop.aio._datagram", "evloop._reactor"},
    "evloop.aio._datagram": {"evloop._reactor"},
}
# TLS is written once, over the readable twin: the cipher costs more than the connection does.  So are packets: their
# system calls are one a message, whoever makes them.
BESIDE = {
    ("evloop._connection_py", "evloop._connection_tls"),
    ("evloop._connection_py", "evloop._connection_packets"),
    # And so a group of compiled connections has one in plain Python beside it, for those.
    ("evloop._connection_py", "evloop._group_py"),
    ("evloop._group_py", "evloop._group"),
}
# The chat client is a library for asyncio programs, and the terminal's runs on it.
ON_ASYNCIO = ("evloop.apps.chat.client", "evloop.cli.chat")
# What a layer must not know; the names are modules, of the standard library or ours.
FORBIDDEN = {
    "evloop.errors": {"evloop", "socket", "selectors", "time", "logging"},
    "evloop.limits": {"evloop", "socket", "selectors", "time", "logging"},
    "evloop._framing_spec": {"socket", "selectors", "time", "logging", "os", "evloop.reactor", "evloop.connection"},
    "evloop._framing_py": {"socket", "selectors", "time", "logging", "os", "evloop.reactor", "evloop.connection"},
    "evloop._framing": {"socket", "selectors", "time", "logging", "os", "evloop.reactor", "evloop.connection"},
    "evloop._reactor_py": {"asyncio", "evloop.framing", "evloop.connection", "evloop.server", "evloop.sockets"},
    "evloop._reactor_lifecycle": {"asyncio", "evloop.framing", "evloop.connection", "evloop.server"},
    "evloop._connection_py": {"asyncio", "selectors.DefaultSelector", "evloop.server", "logging", "time"},
    "evloop._connection": {"asyncio", "selectors", "evloop.server", "logging", "time"},
    "evloop.aio._streams": {
        "socket",
        "selectors",
        "evloop.framing",
        "evloop.connection",
        "evloop.server",
        "logging",
        "time",
    },
    "evloop.aio._transport": {"selectors", "evloop.framing", "evloop.connection", "evloop.server", "logging", "time"},
    "evloop._admission": {"asyncio", "logging", "selectors", "evloop.reactor", "evloop.connection", "evloop.server"},
    "evloop._tls_stream": {"socket", "selectors", "time", "logging", "evloop.reactor", "evloop.connection"},
    "evloop._connection_tls": {"asyncio", "evloop.server", "logging", "time"},
    "evloop._packets": {"selectors", "logging", "evloop.framing", "evloop.reactor", "evloop.connection"},
    "evloop._connection_packets": {"asyncio", "evloop.server", "logging", "time"},
    "evloop.tls": {"socket", "selectors", "time", "logging", "evloop.reactor", "evloop.connection"},
    "evloop.sockets": {"asyncio", "logging", "selectors", "evloop.reactor", "evloop.framing"},
    "evloop.addresses": {"asyncio", "logging", "selectors", "evloop.sockets"},
}


def module_name(path):
    """Return the dotted name of a source file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_at_run_time(path):
    """Return the modules that a file imports, those for type checking alone left out."""
    if path.suffix != ".py":
        lines = re.findall(r"^(?:from\s+(\S+)\s+c?import\s+(.+)|c?import\s+(\S+))", path.read_text(), re.M)
        found = set()
        for source, names, plain in lines:
            found |= {plain} if plain else {source, *(f"{source}.{name.strip()}" for name in names.split(","))}
        return found
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            skipped |= {id(child) for statement in node.body for child in ast.walk(statement)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", [*SOURCES, *EXTENSIONS], ids=lambda path: path.name)
def test_module_imports_only_what_its_layer_may(path):
    """A layer that reaches up cannot be tested, compiled or replaced by itself."""
    name = module_name(path)
    imported = imports_at_run_time(path)
    for forbidden in FORBIDDEN.get(name, ()):
        if forbidden == "evloop":
            assert not any(module.split(".")[0] == "evloop" for module in imported)
        assert forbidden not in imported
    for twin, door in DOORS.items():
        if twin in imported and twin not in COMPILED_ON.get(name, ()):
            assert name in (door, twin) or (twin, name) in BESIDE
    inner = name.split(".")[1] if "." in name else ""
    if inner not in ("cli", "apps", "__main__"):
        assert not imported & {"click", "rich", "evloop.cli", "evloop.apps"}
    if inner != "cli":  # a library does not look at whoever started the process
        assert "evloop.systemd" not in imported
    # In bench it is a rival; to the others it is what they are for.
    if inner not in ("bench", "aio") and not name.startswith(ON_ASYNCIO):
        assert "asyncio" not in imported
    if inner in ("cli", "apps"):
        private = {module for module in imported if module.startswith("evloop.") and "._" in module}
        assert not private - {"evloop.__version__"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_source_functions_and_files_stay_readable(path):
    """A function that outgrows the screen, or a file that outgrows its first sentence, is cut."""
    text = path.read_text()
    assert text.count("\n") <= 700
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a file says what it is"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno <= 60, node.name


def test_public_names_are_listed_once_and_exist():
    """`from evloop import *`, the documentation and the package agree on what is public."""
    assert len(evloop.__all__) == len(set(evloop.__all__))
    public = {
        name for name, value in vars(evloop).items() if not name.startswith("_") and not hasattr(value, "__path__")
    }
    modules = {name for name in public if type(getattr(evloop, name)).__name__ == "module"}
    assert public - modules == {name for name in evloop.__all__ if not name.startswith("_")}


@pytest.mark.parametrize("name", sorted(evloop.__all__))
def test_public_name_has_a_docstring(name):
    """help() is the first documentation that anybody reads."""
    value = getattr(evloop, name)
    assert name.startswith("__") or value.__doc__
