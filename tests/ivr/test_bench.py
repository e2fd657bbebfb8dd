"""The arithmetic of the bench; what it measures is never asserted."""

from __future__ import annotations

import pytest

from ivr.bench import percentile
from ivr.bench_capacity import stall_percentile_ms

PAGE = """
firmline_loop_stall_seconds_bucket{le="0.001"} 900
firmline_loop_stall_seconds_bucket{le="0.01"} 980
firmline_loop_stall_seconds_bucket{le="0.02"} 1000
firmline_loop_stall_seconds_bucket{le="+Inf"} 1000
"""


@pytest.mark.parametrize(("percent", "expected"), [(90, 1.0), (99, 15.0), (100, 20.0), (45, 0.5)])
def test_stall_percentile_lies_inside_its_bucket(percent: float, expected: float) -> None:
    """Straight lines between the bounds."""
    assert stall_percentile_ms(PAGE, percent) == pytest.approx(expected)


def test_stall_percentile_without_a_histogram_is_zero() -> None:
    """No data is not an error of the bench."""
    assert stall_percentile_ms("", 99) == 0.0


def test_percentile_is_the_nearest_rank() -> None:
    """The value that so many do not exceed; none for nothing."""
    assert percentile([5, 1, 3, 2, 4], 50) == 3 and percentile([1, 2], 100) == 2 and percentile([], 95) == 0.0
