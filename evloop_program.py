"""The way into the console script ``evloop``, beside the package: a Ctrl-C while that is imported ends it, too.

Importing ``evloop`` takes 50 ms, before anything of it can catch KeyboardInterrupt; whoever types Ctrl-C right after
Enter would get a traceback for it.  ``python -m evloop`` imports the package by itself and has no such moment.

Rule: nothing in this file may import anything at import time, nor do anything that ``python -m evloop`` does not.
"""


def main() -> int:
    """Run the command line with ``sys.argv`` and return its exit code (int, 0..255).  Main thread only."""
    try:
        from evloop.__main__ import main as run

        return run()
    except KeyboardInterrupt:
        return 130
