"""Starting and stopping: what cannot be had is said with the fix, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ivr.errors import LineError
from ivr.lines.base import RegistrationState

pytestmark = pytest.mark.sip


def open_sockets() -> set[str]:
    """The sockets this process holds."""
    links = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if link.startswith("socket:"):
            links.add(link)
    return links


async def test_port_taken_is_said_with_the_port_and_the_fix(engine: Any, options_of: Any, events_of: Any) -> None:
    """LineError, and nothing half open."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        before = open_sockets()
        with pytest.raises(LineError, match=rf"SIP port {port}/udp on 127.0.0.1 is taken.*line.local_port"):
            await engine(options_of(local_port=port)).start(events_of())
        assert open_sockets() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"local_ip": "192.0.2.77"}, "not an address of this machine"), ({"username": "a b"}, "line.username")],
)
async def test_start_that_cannot_work_says_why(
    engine: Any, options_of: Any, events_of: Any, changes: dict[str, str], said: str
) -> None:
    """An address that is not ours, a user name that cannot stand in a URI."""
    with pytest.raises(LineError, match=said):
        await engine(options_of(**changes)).start(events_of())


async def test_stop_ends_legs_and_leaves_no_thread_task_socket_or_timer(
    engine: Any, options_of: Any, events_of: Any, peer_of: Any
) -> None:
    """One leg up, one ringing, one unacknowledged, a silent peer: all down, all BYEd or refused, nothing left."""
    loop = asyncio.get_running_loop()
    threads, sockets, tasks = set(threading.enumerate()), open_sockets(), asyncio.all_tasks()
    choices = iter([True, False, True])
    events = events_of(lambda leg: leg.answer() if next(choices) else None)
    line = engine(options_of())
    await line.start(events)
    peer = await peer_of(line)
    up, ringing, unacked = await peer.call(), peer.dialog(), peer.dialog()
    ringing.send("INVITE", body=peer_offer(peer))
    await peer.response(180)
    await unacked.ask("INVITE", 200, body=peer_offer(peer))
    assert line.status().legs == 3
    began = loop.time()
    await line.stop()
    assert loop.time() - began < 2
    assert events.count("down") == 3
    byes = {(await peer.request("BYE")).get("Call-ID") for _ in range(2)}
    assert byes == {up.call_id, unacked.call_id}
    assert (await peer.get(lambda r: r.status == 480)).get("Call-ID") == ringing.call_id
    address = line.local_address
    peer.transport.close()
    await asyncio.wait_for(_settled(), 1)
    assert set(threading.enumerate()) == threads and asyncio.all_tasks() == tasks and open_sockets() == sockets
    assert [h for h in loop._scheduled if not h.cancelled()] == []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(address)
    await line.stop()
    assert line.status().registration is RegistrationState.UNREGISTERED and events.count("down") == 3


async def test_line_starts_again_after_stop(started: Any, peer_of: Any, events_of: Any) -> None:
    """Stop is not the end; start twice is refused."""
    line, _ = await started()
    with pytest.raises(LineError, match="already started"):
        await line.start(events_of())
    await line.stop()
    events = events_of()
    await line.start(events)
    await (await peer_of(line)).call()
    await events.wait("up")


async def test_listening_on_all_addresses_advertises_a_real_one(started: Any) -> None:
    """0.0.0.0 never stands in a Contact or a description."""
    line, _ = await started(local_ip="0.0.0.0")
    assert line.local_address[0] != "0.0.0.0"


def test_import_leaks_no_warning_and_no_filter() -> None:
    """audioop's deprecation does not stop users with warnings as errors, and pyVoIP leaves the filters alone."""
    code = (
        "import warnings, ivr.rtp; before = list(warnings.filters); "
        "import ivr.lines.pyvoip; assert warnings.filters == before"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_only_one_file_imports_pyvoip() -> None:
    """Its licence and its habits stay behind one door."""
    import ivr.lines

    folder = Path(ivr.lines.__file__).parents[1]
    found = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*.py"))
        if any(words in path.read_text("utf-8") for words in ("import pyVoIP", "from pyVoIP"))
    ]
    assert found == ["lines/pyvoip_classes.py"]


def peer_offer(peer: Any) -> str:
    """An offer for any peer."""
    return "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"


async def _settled() -> None:
    """Two turns of the loop: transports close in the next one."""
    loop = asyncio.get_running_loop()
    for _ in range(2):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn
