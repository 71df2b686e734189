"""The framing and its rivals under pytest-benchmark: one group for each case, the rivals side by side in it.

For a look at one case (``-k "64 and cuts"``) or a comparison with a saved run (``--benchmark-compare``).  The numbers
are for a pass over half a mebibyte of wire, in one process; those to quote are those of ``evloop bench framing``.
"""

import pytest

from evloop.bench.framing_cases import DECODE_CASES, ENCODE_CASES, RIVALS, missing, prepare

# 120 benchmarks of a fifth of a second, with pytest-benchmark's calibration, are about a minute.
SECONDS = 0.2


def case_id(case):
    return f"{case.size}-{case.how}"


def run(benchmark, rival, case):
    """Time a case that `prepare` has checked."""
    if what := missing(rival):
        pytest.skip(f"not installed: {what}")
    job = prepare(rival, case)
    benchmark.group = f"{case.direction} {' '.join(case.label.split())}"
    benchmark.extra_info["frames"] = job.frames
    benchmark(job.run, job.work)


@pytest.mark.benchmark(max_time=SECONDS)
@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("case", DECODE_CASES, ids=case_id)
def test_decode(benchmark, case, rival):
    """A stream is cut into its frames: the price of every byte that a server receives."""
    run(benchmark, rival, case)


@pytest.mark.benchmark(max_time=SECONDS)
@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("case", ENCODE_CASES, ids=case_id)
def test_encode(benchmark, case, rival):
    """Payloads get their headers: the price of every message that a server sends."""
    run(benchmark, rival, case)
