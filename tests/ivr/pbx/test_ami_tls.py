"""The manager connection encrypted, on a real Asterisk with a certificate of its own making."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ivr.config import Config, parse_config
from ivr.errors import ConfigError
from ivr.parts import asterisk_options
from ivr.pbx.ami import AmiClient, AmiOptions
from tests.ivr.pbx.beside import manager
from tests.ivr.pbx.pbx_server import AMI_SECRET, PbxServer

pytestmark = pytest.mark.sip


def options(server: PbxServer, tls: str, port: int = 0) -> AmiOptions:
    """As config.yaml says it."""
    keys = f"host: 127.0.0.1, port: {port or server.tls_port}, secret: {AMI_SECRET}, agents: ['201'], tls: {{{tls}}}"
    config: Config = parse_config(f"pbx: {{kind: asterisk, asterisk: {{{keys}}}}}", "x.yaml")
    return asterisk_options(config).ami


async def problem_of(wanted: AmiOptions) -> str:
    """Why that login fails."""
    told: asyncio.Queue[str] = asyncio.Queue()

    async def up() -> None:
        told.put_nowait("")

    client = AmiClient(wanted, on_event=lambda _m: None, on_up=up, on_down=told.put_nowait)
    client.start()
    try:
        return await asyncio.wait_for(told.get(), 10)
    finally:
        await client.stop()


async def test_manager_over_tls_is_verified_by_name_and_authority(asterisk: PbxServer) -> None:
    """With the PBX's certificate as authority and the name that it holds: a login, and answers."""
    ca = f"enabled: true, ca_file: {asterisk.folder / 'ami.crt'}"
    async with manager(options(asterisk, f"{ca}, server_name: pbx.example")) as client:
        assert (await client.action("Ping")).get("Response") == "Success"
    async with manager(options(asterisk, "enabled: true, verify: false")) as client:
        assert (await client.action("Ping")).get("Response") == "Success"


async def test_manager_with_an_untrusted_or_wrong_certificate_is_not_spoken_to(asterisk: PbxServer) -> None:
    """Unknown authority, another name, a port without TLS: each is said, with the key to look at."""
    ca = f"enabled: true, ca_file: {asterisk.folder / 'ami.crt'}"
    unknown, other_name, plain = await asyncio.gather(
        problem_of(options(asterisk, "enabled: true")),
        problem_of(options(asterisk, ca)),
        problem_of(options(asterisk, ca, port=asterisk.ami_port)),
    )
    assert "is not trusted" in unknown and "pbx.asterisk.tls.ca_file" in unknown
    assert "is not trusted" in other_name and "127.0.0.1" in other_name
    assert "does not answer with TLS" in plain and "pbx.asterisk.port" in plain


def test_authority_file_that_cannot_be_read_is_an_error_at_start(asterisk: PbxServer, tmp_path: Path) -> None:
    """Missing or no certificate at all: the key and the file are named before anything connects."""
    (tmp_path / "no.pem").write_text("nonsense")
    for name in ("missing.pem", "no.pem"):
        with pytest.raises(ConfigError, match=rf"pbx.asterisk.tls.ca_file: cannot be used: .*{name}"):
            options(asterisk, f"enabled: true, ca_file: {tmp_path / name}")
