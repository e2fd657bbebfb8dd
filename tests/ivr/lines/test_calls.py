"""What a line does on the wire in a call: answers, holds, ends, and keeps its dialogs apart."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytestmark = pytest.mark.sip

OFFER = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\n"
)
NEVER = lambda leg: None  # noqa: E731


async def test_invite_is_answered_with_media_and_comes_up_on_ack(started: Any, peer_of: Any) -> None:
    """200 carries our description; the owner hears offered, then up after the ACK, with call, side and headers."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = peer.dialog(headers=("X-Firmline-Call: 1700.5", "X-Firmline-Side:  Caller ", "X-Odd: caf\udce9"))
    reply = await dialog.ask("INVITE", 200, body=OFFER)
    assert events.count("up") == 0
    assert "m=audio" in reply.body and "a=sendrecv" in reply.body and reply.get("Content-Type") == "application/sdp"
    assert int(reply.get("Content-Length")) == len(reply.body)
    dialog.learn(reply)
    dialog.ack()
    leg = await events.wait("up")
    assert (leg.id, leg.call_ref, leg.side) == (dialog.call_id, "1700.5", "caller")
    assert leg.headers["x-odd"] == "caf\ufffd" and leg.remote_uri == "sip:alice@127.0.0.1" and leg.rate_hz == 8000
    assert line.status().legs == 1


async def test_undecided_invite_gets_100_then_180_then_480(started: Any, peer_of: Any, engine: Any) -> None:
    """A leg nobody answers is refused in the end, and its owner told."""
    from dataclasses import replace

    from ivr.lines.transactions import Timers

    line, events = await started(
        NEVER, timers=replace(Timers(t1_ms=20, t2_ms=80, t4_ms=100, stop_ms=400), ring_ms=10, no_answer_ms=80)
    )
    peer = await peer_of(line)
    dialog = peer.dialog()
    dialog.send("INVITE", body=OFFER)
    trying = await peer.response(100)
    ringing = await peer.response(180)
    assert not trying.to_tag and ringing.to_tag and ringing.get("Contact")
    final = await peer.response(480)
    dialog.ack(branch=dialog.branch)
    assert final.to_tag == ringing.to_tag
    assert "nobody" in await events.wait("down")


async def test_rejected_invite_is_refused_with_the_owners_status(started: Any, peer_of: Any) -> None:
    """The refusal is repeated until its ACK and the leg is down."""
    line, events = await started(lambda leg: leg.reject(486, "no such call"))
    peer = await peer_of(line)
    dialog = peer.dialog()
    await dialog.ask("INVITE", 486, body=OFFER)
    await peer.response(486)
    dialog.ack(branch=dialog.branch)
    await peer.settle()
    peer.inbox.clear()
    assert "no such call" in await events.wait("down")
    assert line.status().legs == 0 and events.count("up") == 0


async def test_owner_that_fails_gets_the_peer_500_and_no_leg(started: Any, peer_of: Any) -> None:
    """An exception in the owner's callback costs that leg and nothing else."""

    def fail(leg: Any) -> None:
        raise RuntimeError("boom")

    line, events = await started(fail)
    peer = await peer_of(line)
    dialog = peer.dialog()
    await dialog.ask("INVITE", 500, body=OFFER)
    dialog.ack(branch=dialog.branch)
    await events.wait("down")
    assert line.counters["owner_faults"] == 1


async def test_ok_is_repeated_until_acked_and_repeat_invite_makes_no_second_leg(started: Any, peer_of: Any) -> None:
    """RFC 5407 3.1.1: a retransmitted INVITE is answered from its transaction, with the very same bytes."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = peer.dialog()
    text = dialog.send("INVITE", body=OFFER)
    first = await peer.response(200)
    peer.send(text)
    second = await peer.response(200)
    third = await peer.response(200)
    assert first.headers == second.headers == third.headers and first.body == second.body
    dialog.learn(first)
    dialog.ack()
    await events.wait("up")
    assert events.count("offered") == 1


async def test_ack_that_never_comes_ends_the_leg_with_bye(started: Any, peer_of: Any) -> None:
    """RFC 3261 13.3.1.4: after 64*T1 without ACK the dialog is ended with a BYE."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = peer.dialog()
    await dialog.ask("INVITE", 200, body=OFFER)
    bye = await peer.request("BYE")
    assert "never acknowledged" in await events.wait("down")
    peer.send(answer_to(bye))
    assert events.count("up") == 0 and line.status().legs == 0


async def test_late_ack_after_one_lost_still_brings_the_leg_up(started: Any, peer_of: Any) -> None:
    """The ACK to a repeated 200 is as good as to the first."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = peer.dialog()
    await dialog.ask("INVITE", 200, body=OFFER)
    for _ in range(3):
        dialog.learn(await peer.response(200))
    dialog.ack()
    await events.wait("up")
    dialog.ack()
    await peer.settle()
    assert line.counters["acks_late"] == 1


async def test_cancel_before_answer_gets_200_and_487(started: Any, peer_of: Any) -> None:
    """RFC 3261 section 9.2, and the leg is down before it was ever up."""
    line, events = await started(NEVER)
    peer = await peer_of(line)
    dialog = peer.dialog()
    dialog.send("INVITE", body=OFFER)
    await peer.response(180)
    branch = dialog.branch
    await dialog.ask("CANCEL", 200, cseq=1, branch=branch)
    await peer.response(487, "1 INVITE")
    dialog.ack(branch=branch)
    assert "cancelled" in await events.wait("down")
    events.legs[0].answer()
    await peer.settle()
    assert events.count("down") == 1 and not [r for r in peer.inbox if r.status == 200]


async def test_cancel_after_answer_gets_200_and_the_call_stays(started: Any, peer_of: Any) -> None:
    """RFC 5407 3.1.2: the 200 crossed the CANCEL; the peer has to send a BYE if it still means it."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = peer.dialog()
    dialog.learn(await dialog.ask("INVITE", 200, body=OFFER))
    await dialog.ask("CANCEL", 200, cseq=1, branch=dialog.branch, to_tag="")
    dialog.ack()
    await events.wait("up")
    assert events.count("down") == 0 and line.status().legs == 1


async def test_cancel_of_nothing_gets_481(started: Any, peer_of: Any) -> None:
    """No INVITE with that branch."""
    line, _ = await started()
    peer = await peer_of(line)
    await peer.dialog().ask("CANCEL", 481)


async def test_bye_before_ack_ends_the_leg_and_the_repeats(started: Any, peer_of: Any) -> None:
    """RFC 5407 3.1.3 and 3.1.6: a BYE while the 200 is unacknowledged."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = peer.dialog()
    dialog.learn(await dialog.ask("INVITE", 200, body=OFFER))
    await dialog.ask("BYE", 200)
    assert "peer" in await events.wait("down")
    peer.inbox.clear()
    await asyncio.wait_for(peer.settle(), 2)
    assert not [r for r in peer.inbox if r.cseq.endswith("INVITE")] and line.status().legs == 0


async def test_bye_on_early_dialog_gets_200_and_487(started: Any, peer_of: Any) -> None:
    """RFC 3261 section 15.1.2: pending requests of an ended dialog are answered 487."""
    line, events = await started(NEVER)
    peer = await peer_of(line)
    dialog = peer.dialog()
    dialog.send("INVITE", body=OFFER)
    dialog.learn(await peer.response(180))
    branch = dialog.branch
    await dialog.ask("BYE", 200)
    await peer.response(487, "1 INVITE")
    dialog.ack(cseq=1, branch=branch)
    await events.wait("down")


async def test_reinvite_before_ack_is_taken_as_the_ack(started: Any, peer_of: Any) -> None:
    """RFC 5407 3.1.4: nobody re-INVITEs without having acknowledged, so the ACK was lost on the way."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = peer.dialog()
    dialog.learn(await dialog.ask("INVITE", 200, body=OFFER))
    reply = await dialog.ask("INVITE", 200, body=OFFER + "a=sendonly\r\n")
    assert "a=recvonly" in reply.body
    dialog.ack()
    await events.wait("up")
    assert events.count("offered") == 1


async def test_reinvite_while_our_offer_waits_for_its_answer_gets_491(started: Any, peer_of: Any) -> None:
    """RFC 5407 3.1.5: the answer is in the ACK that has not come yet; glare."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = peer.dialog()
    dialog.learn(await dialog.ask("INVITE", 200))
    await dialog.ask("INVITE", 491, body=OFFER)
    dialog.ack(branch=dialog.branch)
    await dialog.ask("UPDATE", 491, body=OFFER)
    dialog.ack(body=OFFER, cseq=1)
    await events.wait("up")


async def test_hang_up_before_ack_holds_the_bye_until_the_ack(started: Any, peer_of: Any) -> None:
    """RFC 3261 section 15 and RFC 5407 3.2.4: no BYE of the callee before the ACK; the owner is told at once."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = peer.dialog()
    dialog.learn(await dialog.ask("INVITE", 200, body=OFFER))
    events.legs[0].hang_up()
    events.legs[0].hang_up()
    await events.wait("down")
    await peer.settle()
    assert not [r for r in peer.inbox if r.method == "BYE"]
    dialog.ack()
    peer.send(answer_to(await peer.request("BYE")))
    await peer.settle()
    assert events.count("down") == 1 and events.count("up") == 0


async def test_byes_that_cross_are_both_answered(started: Any, peer_of: Any) -> None:
    """RFC 5407 3.2.1: each side answers the other's BYE 200."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = await peer.call()
    (await events.wait("up")).hang_up()
    bye = await peer.request("BYE")
    await dialog.ask("BYE", 200)
    peer.send(answer_to(bye))
    await events.wait("down")
    await peer.settle()
    assert events.count("down") == 1
    await dialog.ask("BYE", 481)


async def test_reinvite_that_crosses_our_bye_gets_481(started: Any, peer_of: Any) -> None:
    """RFC 5407 3.2.2: the dialog is over for us; the call does not come back."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = await peer.call()
    (await events.wait("up")).hang_up()
    bye = await peer.request("BYE")
    await dialog.ask("INVITE", 481, body=OFFER)
    dialog.ack(branch=dialog.branch)
    await dialog.ask("UPDATE", 481)
    await dialog.ask("INFO", 481)
    peer.send(answer_to(bye))
    await events.wait("down")


async def test_our_bye_is_repeated_and_given_up_with_one_leg_down(started: Any, peer_of: Any) -> None:
    """A peer that never answers costs timer F and nothing more."""
    line, events = await started()
    peer = await peer_of(line)
    await peer.call()
    (await events.wait("up")).hang_up()
    first, second = await peer.request("BYE"), await peer.request("BYE")
    assert first.headers == second.headers
    await events.wait("down")
    await asyncio.wait_for(line._phone.sip.client_transactions.settled(), 5)
    assert line.counters["byes_unanswered"] == 1 and events.count("down") == 1 and not line._phone.calls


async def test_hold_resume_and_media_move_by_reinvite(started: Any, peer_of: Any) -> None:
    """RFC 3264 section 8: directions mirror, the version goes up when our answer changes, the port stays ours."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = await peer.call()
    port = media_port(dialog.answer.body)
    for theirs, ours in (
        ("sendonly", "recvonly"),
        ("inactive", "inactive"),
        ("recvonly", "sendonly"),
        ("sendrecv", "sendrecv"),
    ):
        reply = await dialog.ask("INVITE", 200, body=OFFER + f"a={theirs}\r\n")
        dialog.ack()
        assert f"a={ours}\r\n" in reply.body and media_port(reply.body) == port
    moved = OFFER.replace("4000 RTP/AVP 0 8 101", "4010 RTP/AVP 8").replace("a=rtpmap:101 telephone-event/8000\r\n", "")
    reply = await dialog.ask("INVITE", 200, body=moved)
    dialog.ack()
    assert f"m=audio {port} RTP/AVP 8\r\n" in reply.body
    assert reply.body.splitlines()[1].split()[2] == "6", "one version for each change"
    old_hold = await dialog.ask("INVITE", 200, body=OFFER.replace("c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0"))
    dialog.ack()
    assert "a=recvonly" in old_hold.body
    off = await dialog.ask("INVITE", 200, body=OFFER.replace("m=audio 4000", "m=audio 0"))
    dialog.ack()
    assert "m=audio 0 RTP/AVP" in off.body
    await peer.settle()
    assert events.count("offered") == 1 and events.count("down") == 0


async def test_reinvite_we_cannot_take_gets_488_and_the_call_stays(started: Any, peer_of: Any) -> None:
    """RFC 3261 section 14.2: a refused offer leaves the session as it was."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = await peer.call()
    await dialog.ask("INVITE", 488, body=OFFER.replace("0 8 101", "9").replace("telephone-event", "G729"))
    dialog.ack(branch=dialog.branch)
    await dialog.ask("INVITE", 415, body="x", kind="text/plain")
    dialog.ack(branch=dialog.branch)
    await dialog.ask("BYE", 200)
    await events.wait("down")


async def test_reinvite_without_description_gets_our_offer(started: Any, peer_of: Any) -> None:
    """The offer is in the 200, with our port and both codecs; the answer in the ACK is taken."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = await peer.call(OFFER.replace("0 8 101", "8 101"))
    reply = await dialog.ask("INVITE", 200)
    assert f"m=audio {media_port(dialog.answer.body)} RTP/AVP 0 8 101" in reply.body
    dialog.ack(body=OFFER)
    await dialog.ask("BYE", 200)
    assert events.count("up") == 1


async def test_late_offer_comes_up_with_the_answer_in_the_ack(started: Any, peer_of: Any) -> None:
    """An INVITE without description is answered with our offer (RFC 3261 section 13.2.1)."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = peer.dialog()
    reply = await dialog.ask("INVITE", 200)
    assert "RTP/AVP 0 8 101" in reply.body and "a=sendrecv" in reply.body
    dialog.learn(reply)
    dialog.ack(body=OFFER)
    await events.wait("up")


@pytest.mark.parametrize(
    "answer",
    ["", OFFER.replace("audio 4000", "audio 0"), OFFER.replace("0 8 101", "9").replace("telephone-event", "G729")],
)
async def test_late_offer_without_usable_answer_is_ended(started: Any, peer_of: Any, answer: str) -> None:
    """Without an answer there is no media: BYE, and the leg was never up."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = peer.dialog()
    dialog.learn(await dialog.ask("INVITE", 200))
    dialog.ack(body=answer)
    peer.send(answer_to(await peer.request("BYE")))
    assert "no usable answer" in await events.wait("down")
    assert events.count("up") == 0


async def test_update_with_and_without_description(started: Any, peer_of: Any) -> None:
    """RFC 3311: without a body it refreshes, with one it renegotiates, before the answer it must wait."""
    line, events = await started(NEVER)
    peer = await peer_of(line)
    dialog = peer.dialog()
    dialog.send("INVITE", body=OFFER)
    dialog.learn(await peer.response(180))
    early = await dialog.ask("UPDATE", 500, body=OFFER)
    assert early.get("Retry-After")
    await dialog.ask("UPDATE", 200)
    await dialog.ask("INVITE", 500, body=OFFER)
    dialog.ack(branch=dialog.branch)
    events.legs[0].answer()
    await peer.response(200, "1 INVITE")
    dialog.ack(cseq=1)
    await events.wait("up")
    assert "a=inactive" in (await dialog.ask("UPDATE", 200, body=OFFER + "a=inactive\r\n")).body
    await dialog.ask("UPDATE", 488, body=OFFER.replace("IP4", "IP6"))


async def test_target_refresh_moves_our_bye(started: Any, peer_of: Any) -> None:
    """The Contact of a re-INVITE is the new remote target (RFC 3261 section 12.2)."""
    line, events = await started()
    peer, elsewhere = await peer_of(line), await peer_of(line)
    dialog = await peer.call()
    text = dialog.text("UPDATE").replace(
        f"Contact: <sip:alice@127.0.0.1:{peer.address[1]}>", f"m: sip:bob@127.0.0.1:{elsewhere.address[1]}"
    )
    peer.send(text)
    await peer.response(200, f"{dialog.cseq} UPDATE")
    (await events.wait("up")).hang_up()
    bye = await elsewhere.request("BYE")
    assert bye.start == f"BYE sip:bob@127.0.0.1:{elsewhere.address[1]} SIP/2.0"
    elsewhere.send(answer_to(bye))
    await events.wait("down")


async def test_record_route_is_copied_and_our_bye_follows_it(started: Any, peer_of: Any) -> None:
    """Loose routing: the BYE goes to the first route, with the whole set in order and the target as Request-URI."""
    line, events = await started()
    peer, proxy = await peer_of(line), await peer_of(line)
    routes = (f"<sip:127.0.0.1:{proxy.address[1]};lr>", "<sip:10.9.9.9;lr;ftag=x>")
    dialog = await peer.call(headers=(f"Record-Route: {routes[0]}, {routes[1]}",))
    assert dialog.answer.get("Record-Route") == f"{routes[0]}, {routes[1]}"
    (await events.wait("up")).hang_up()
    bye = await proxy.request("BYE")
    assert bye.all("Route") == list(routes) and bye.start.startswith(f"BYE sip:alice@127.0.0.1:{peer.address[1]} ")
    assert bye.cseq == "1 BYE" and bye.get("From").endswith(f";tag={dialog.to_tag}")
    proxy.send(answer_to(bye))
    await events.wait("down")


async def test_strict_router_becomes_the_request_uri(started: Any, peer_of: Any) -> None:
    """RFC 3261 section 12.2.1.1: a first route without lr takes the Request-URI, the target becomes the last Route."""
    line, events = await started()
    peer, proxy = await peer_of(line), await peer_of(line)
    await peer.call(headers=(f"Record-Route: <sip:127.0.0.1:{proxy.address[1]}>",))
    (await events.wait("up")).hang_up()
    bye = await proxy.request("BYE")
    assert bye.start == f"BYE sip:127.0.0.1:{proxy.address[1]} SIP/2.0"
    assert bye.all("Route") == [f"<sip:alice@127.0.0.1:{peer.address[1]}>"]
    proxy.send(answer_to(bye))
    await events.wait("down")


async def test_forged_requests_get_481_and_the_call_goes_on(started: Any, peer_of: Any) -> None:
    """Right Call-ID, wrong tags: not this dialog."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = await peer.call()
    await events.wait("up")
    await dialog.ask("BYE", 481, tag="forged")
    await dialog.ask("BYE", 481, to_tag="forged")
    await dialog.ask("BYE", 481, to_tag="")
    await dialog.ask("INVITE", 481, tag="forged", body=OFFER)
    dialog.ack(branch=dialog.branch)
    assert events.count("down") == 0 and line.status().legs == 1


async def test_untrusted_network_is_refused_counted_and_powerless(started: Any, peer_of: Any) -> None:
    """INVITE gets 403, a BYE with every tag right is dropped, the call goes on."""
    line, events = await started(trusted_peers=("127.0.0.1/32",))
    peer, stranger = await peer_of(line), await peer_of(line, "127.0.0.66")
    dialog = await peer.call()
    await events.wait("up")
    stranger.send(dialog.text("BYE"))
    stranger.send(dialog.text("OPTIONS"))
    await stranger.dialog().ask("INVITE", 403, body=OFFER)
    assert not stranger.inbox and events.count("down") == 0 and events.count("offered") == 1
    assert line.counters["untrusted"] == 3


async def test_old_cseq_gets_500(started: Any, peer_of: Any) -> None:
    """RFC 3261 section 12.2.2: out of order."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = await peer.call(cseq=10)
    await dialog.ask("BYE", 500, cseq=5)
    await dialog.ask("INFO", 500, cseq=11)
    assert events.count("down") == 0


async def test_legs_over_the_limit_get_486(started: Any, peer_of: Any) -> None:
    """The limit counts live legs, and room comes back when one ends."""
    line, events = await started(max_legs=1)
    peer = await peer_of(line)
    first = await peer.call()
    second = peer.dialog()
    await second.ask("INVITE", 486, body=OFFER)
    second.ack(branch=second.branch)
    await first.ask("BYE", 200)
    await peer.call()
    assert line.counters["legs_over_limit"] == 1


async def test_merged_request_gets_482(started: Any, peer_of: Any) -> None:
    """RFC 3261 section 8.2.2.2: the same INVITE by two paths is one call."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = await peer.call()
    await dialog.ask("INVITE", 482, cseq=1, to_tag="", body=OFFER)
    dialog.ack(branch=dialog.branch)
    assert events.count("offered") == 1


async def test_media_ports_used_up_gets_503(started: Any, peer_of: Any, free_port: int) -> None:
    """The leg goes down with the reason; the line goes on."""
    low = free_port & ~1
    line, events = await started(rtp_port_low=low, rtp_port_high=low + 1)
    peer = await peer_of(line)
    await peer.call()
    dialog = peer.dialog()
    await dialog.ask("INVITE", 503, body=OFFER)
    dialog.ack(branch=dialog.branch)
    assert "could not be answered" in await events.wait("down")
    assert line.status().legs == 1


async def test_play_on_a_leg_without_media_is_over_at_once(started: Any, peer_of: Any) -> None:
    """The owner gets a finished playback with the reason instead of an exception."""
    import numpy as np

    line, events = await started(NEVER)
    peer = await peer_of(line)
    dialog = peer.dialog()
    dialog.send("INVITE", body=OFFER)
    leg = await events.wait("offered")
    playback = leg.play(np.zeros(160, np.int16))
    result = await playback.done
    playback.stop()
    assert not result.completed and result.why and playback.started.cancelled()


def media_port(body: str) -> int:
    """Port of the first audio line."""
    return int(next(line for line in body.splitlines() if line.startswith("m=audio")).split()[1])


def answer_to(request: Any) -> str:
    """A 200 to a request the peer got."""
    kept = [f"{k}: {v}" for k, v in request.headers if k in ("Via", "From", "To", "Call-ID", "CSeq")]
    return "\r\n".join(["SIP/2.0 200 OK", *kept, "Content-Length: 0", "", ""])


async def test_fault_of_ours_gets_the_peer_500_and_leaves_other_calls(
    started: Any, peer_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug while handling one request is counted, answered, and felt nowhere else."""
    line, events = await started()
    peer = await peer_of(line)
    live = await peer.call()
    monkeypatch.setattr(line._phone, "_offer", lambda inbound: 1 / 0)
    dialog = peer.dialog()
    await dialog.ask("INVITE", 500, body=OFFER)
    dialog.ack(branch=dialog.branch)
    assert line.counters.pop("faults") == 1
    await live.ask("BYE", 200)
    await events.wait("down")
