"""The limit on open files is raised to what the legs need, or the shortage is said."""

from __future__ import annotations

import resource

import pytest

from ivr.limits import BESIDES_LEGS, allow_open_files


@pytest.mark.parametrize(
    ("soft", "hard", "then", "said"),
    [
        (1_024, 524_288, 2_000 + BESIDES_LEGS, ""),
        (1_024, resource.RLIM_INFINITY, 2_000 + BESIDES_LEGS, ""),
        (1_024, 1_500, 1_500, "line.max_legs 2000 may need 2512"),
        (8_192, 8_192, None, ""),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, ""),
    ],
)
def test_soft_limit_is_raised_as_far_as_needed_and_allowed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, then: int | None, said: str
) -> None:
    """Never lowered, never above the hard limit; what does not fit is told with the fix."""
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _which, both: raised.append(both))
    told = allow_open_files(2_000)
    assert (said in told) if said else not told
    assert raised == ([] if then is None else [(then, hard)])
