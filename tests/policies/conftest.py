"""Packs are compiled once for the whole run: they are frozen."""

from __future__ import annotations

import pytest

from ivr.judge import load_pack
from policies.pack import Pack


@pytest.fixture(scope="session")
def standard() -> Pack:
    """The default pack."""
    return load_pack("standard")


@pytest.fixture(scope="session")
def strict() -> Pack:
    """Any curse word counts."""
    return load_pack("strict")
