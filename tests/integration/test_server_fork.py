"""A server whose handler forks: the child ends as it likes, and the parent's peers, path and listener are untouched."""

from __future__ import annotations

import pytest
from peers import PATIENCE, python, read_line

from evloop import BlockingClient

SERVE = """
import gc, os, sys, evloop
def handler(conn, frame):
    conn.send(frame)
    if frame == b"fork" and os.fork() == 0:
        exec(sys.argv[2])
try:
    evloop.serve(handler, f"unix:{sys.argv[1]}", ready=lambda server: print("ready", flush=True))
except RuntimeError as exc:
    print(exc, flush=True)
gc.collect()
"""
ENDS = {
    "exits": "sys.exit(0)",
    "leaves": "os._exit(0)",
    "returns": "pass",
    "closes": "conn.abort(); conn._reactor.close(); sys.exit(0)",
    "raises": "raise KeyboardInterrupt",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS)
def test_serve_handler_forks_the_child_takes_nothing_with_it(tmp_path, how):
    """serve() cleans up on its way out; in the child that would remove the path, and reset the peers, of the parent."""
    path = tmp_path / "s"
    with python(SERVE, path, ENDS[how]) as process:
        assert read_line(process) == "ready"
        with BlockingClient(f"unix:{path}", timeout=PATIENCE) as witness:
            with BlockingClient(f"unix:{path}", timeout=PATIENCE) as client:
                client.send(b"fork")
                client.expect(b"fork")
                if how == "returns":
                    text = f"this reactor belongs to process {process.pid}; make a new one after fork()"
                    assert read_line(process) == text
                for peer in (client, witness):
                    peer.send(b"still here")
                    peer.expect(b"still here")
            with BlockingClient(f"unix:{path}", timeout=PATIENCE) as late:
                late.send(b"late")
                late.expect(b"late")
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert not path.exists()
        log = process.stderr.read()
        assert log.count(b"Traceback") == (how == "raises")
        assert b"unclosed" not in log and b"never" not in log
