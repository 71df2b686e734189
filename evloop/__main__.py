"""``evloop`` and ``python -m evloop``: the way into the command line, which is the optional part of the package."""

from __future__ import annotations

import sys

# What the extra `apps` brings; whatever else is missing is a broken installation and deserves its traceback.
_EXTRA = ("click", "rich")


def main() -> int:
    """Run the command line with ``sys.argv`` and return its exit code (int, 0..255).  Main thread only."""
    try:
        from evloop.cli.program import run

        return run(sys.argv[1:])
    except ModuleNotFoundError as exc:
        if exc.name not in _EXTRA:
            raise
        print("evloop: the command line needs click and rich: pip install click rich", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:  # while importing; from there on the command line has its own idea of Ctrl-C
        return 130


if __name__ == "__main__":
    sys.exit(main())
