"""Random cuts, delays and restarts with ``--db``: every client has the same list of each room, in order, once."""

from __future__ import annotations

import pytest
from chatmachine import ThreadServer, run


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_clients_agree_whatever_breaks(seed, tmp_path):
    """The promise to people: nothing lost, nothing twice, and the same for all; more seeds are in tests/fault."""
    run(seed, ThreadServer(tmp_path))
