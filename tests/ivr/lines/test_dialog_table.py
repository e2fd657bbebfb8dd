"""The dialog's table, walked: nothing unreachable, no dead end, every ending tells the owner once."""

from __future__ import annotations

import itertools

import pytest

from ivr.lines.sipdialog import ANSWERED, TABLE, UNANSWERED, Act, Dialog, DialogEvent, DialogState
from ivr.lines.sipmessage import SipMessage, parse

PEER_CAN = {DialogEvent.CANCEL, DialogEvent.BYE}
OWNER_CAN = {DialogEvent.HANG_UP}


def test_every_state_is_reachable_and_can_end() -> None:
    """Forward from TRYING, backward from TERMINATED."""
    reached = {DialogState.TRYING}
    for _ in DialogState:
        reached |= {cell[0] for state in reached for cell in TABLE[state].values()}
    assert reached == set(DialogState) == set(TABLE)
    ending = {DialogState.TERMINATED}
    for _ in DialogState:
        ending |= {state for state in TABLE if any(cell[0] in ending for cell in TABLE[state].values())}
    assert ending == set(DialogState)


def test_every_state_has_a_cell_for_what_a_person_or_peer_can_cause() -> None:
    """Hang-up, CANCEL and BYE never fall through; a lost ACK always has an end."""
    for state, cells in TABLE.items():
        assert cells.keys() >= PEER_CAN | OWNER_CAN, state
    for state in (DialogState.ACCEPTED, DialogState.CONFIRMED, DialogState.ENDING):
        assert {DialogEvent.ACK, DialogEvent.ACK_TIMEOUT} <= TABLE[state].keys()
    assert all({DialogEvent.ANSWER, DialogEvent.REJECT, DialogEvent.NO_ANSWER} <= TABLE[s].keys() for s in UNANSWERED)


def test_every_path_reports_down_once_closes_media_and_never_sends_bye_before_ack() -> None:
    """All event sequences up to length six from the offer."""
    events = [e for e in DialogEvent if e not in (DialogEvent.DEFER, DialogEvent.RING)]
    for path in itertools.product(events, repeat=4):
        for lead in ((), (DialogEvent.DEFER,), (DialogEvent.DEFER, DialogEvent.RING)):
            state, acts, acked = DialogState.TRYING, [], False
            for event in (*lead, *path):
                cell = TABLE[state].get(event)
                if cell is None:
                    continue
                if Act.SEND_BYE in cell[1]:
                    assert acked or event in (DialogEvent.ACK, DialogEvent.ACK_TIMEOUT), path
                acked = acked or (event is DialogEvent.ACK and state in (*ANSWERED, DialogState.ENDING))
                state, done = cell
                acts += done
            over = state in (DialogState.TERMINATED, DialogState.ENDING)
            assert acts.count(Act.REPORT_DOWN) == (1 if over else 0), path
            assert (Act.CLOSE_MEDIA in acts) == over
            assert acts.count(Act.SEND_BYE) <= 1 and acts.count(Act.REPORT_UP) <= 1


def invite(contact: str = "Contact: <sip:a@10.0.0.1:5070>", routes: str = "") -> SipMessage:
    head = "INVITE sip:b@h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\nFrom: <sip:a@h>;tag=f\r\nTo: <sip:b@h>\r\n"
    return parse(f"{head}Call-ID: c\r\nCSeq: 4 INVITE\r\n{contact}\r\n{routes}\r\n".encode())


def test_dialog_names_the_next_hop_only_by_ipv4_address() -> None:
    """A host name is never looked up: the request goes where the dialog's requests come from."""
    peer = ("192.0.2.8", 5062)
    assert Dialog.from_invite(invite(), "t", peer).next_request("BYE")[2] == ("10.0.0.1", 5070)
    for contact in ("sip:a@pbx.example.com", "sip:a@[::1]", "sip:a@0.0.0.0", "sip:a@300.1.1.1"):
        assert Dialog.from_invite(invite(f"m: {contact}"), "t", peer).next_request("BYE")[2] == peer


@pytest.mark.parametrize("bad", ["X-None: 1", "Contact: *", "Contact: <sip:a b@h>", "Contact: <sip:a@h:99999>"])
def test_dialog_needs_a_usable_contact(bad: str) -> None:
    """Without one there is no way to end the call."""
    with pytest.raises(ValueError, match="."):
        Dialog.from_invite(invite(bad), "t", ("192.0.2.8", 5062))


def test_target_refresh_without_contact_keeps_the_old_target() -> None:
    """A re-INVITE without a Contact is sloppy, not fatal."""
    dialog = Dialog.from_invite(invite(), "t", ("192.0.2.8", 5062))
    dialog.refresh_target(invite("X-None: 1"))
    assert dialog.remote_target == "sip:a@10.0.0.1:5070"
