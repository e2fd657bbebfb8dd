"""Marks of queue and dialplan: what they are read from, and what they make of the people in a call."""

from __future__ import annotations

import pytest

from ivr.pbx.ami import AmiMessage
from ivr.pbx.channels import Channel
from ivr.pbx.guarded import Guarded, Mark, MarkOptions, mark_of

OPTIONS = MarkOptions(("support", "6*"), "FIRMLINE")


def row(*variables: str, app: str = "Dial", data: str = "PJSIP/201,30", began: bool = True) -> AmiMessage:
    """One row of Status."""
    fields = [("Uniqueid", "1.1"), ("Linkedid", "1.1" if began else "1.0"), ("Application", app), ("Data", data)]
    return AmiMessage((*fields, *(("Variable", each) for each in variables)))


@pytest.mark.parametrize(
    ("told", "mark"),
    [
        (row(app="Queue", data="support,t,,,30"), Mark(False)),
        (row(app="Queue", data="601"), Mark(False)),
        (row(app="Queue", data="sales"), None),
        (row(app="Playback", data="support"), None),
        (row("FIRMLINE=1", "FIRMLINE_AGENT=7001"), Mark(False, "7001")),
        (row("FIRMLINE=agent", "FIRMLINE_AGENT=(null)"), Mark(True)),
        (row("FIRMLINE=(null)", "FIRMLINE_AGENT=(null)"), None),
        (row("FIRMLINE=0"), None),
        (row("FIRMLINE="), None),
        (row("OTHER=1"), None),
        (row("FIRMLINE=1", began=False), None),
    ],
)
def test_mark_is_read_from_queue_and_variable(told: AmiMessage, mark: Mark | None) -> None:
    """A guarded queue's application, or the variable on the channel that began the call; nothing else."""
    assert mark_of(told, OPTIONS) == mark


def test_nothing_is_marked_where_nothing_is_configured() -> None:
    """An empty variable name matches no variable, and no queue is guarded."""
    assert not MarkOptions() and mark_of(row("=1", "FIRMLINE=1", app="Queue", data="support"), MarkOptions()) is None


def channel(name: str) -> Channel:
    return Channel(f"u-{name}", f"PJSIP/{name}-0000000a", "1.1", "b1")


def test_marked_callers_partner_is_the_agent_but_no_colleague_and_nobody_of_ours() -> None:
    """Without the mark the same people are nobody's business; the marked agent's extension goes before the endpoint."""
    guarded = Guarded("firmline", [], ["299"])
    pat, agent, boss, ours = (channel(name) for name in ("pat", "201", "299", "firmline"))
    everybody = [pat, agent, boss, ours]
    assert guarded.agents_of(pat, everybody) == []
    guarded.marks[pat.uniqueid] = Mark(False, "7001")
    assert guarded.agents_of(pat, everybody) == [agent] and guarded.ext_of(pat, agent) == "7001"
    assert guarded.agents_of(agent, everybody) == [], "the agent is not a caller of the caller"
    guarded.marks = {agent.uniqueid: Mark(True)}
    assert guarded.agents_of(pat, everybody) == [agent] and guarded.ext_of(pat, agent) == "201"
    assert not guarded.is_caller(agent) and guarded.is_caller(pat)
