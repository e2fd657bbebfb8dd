"""``firmline doctor``: why does it not work? The common causes in plain words, with the next step.

``firmline check`` says whether settings are valid and what they would use; this looks at the machine and around it.

Harmless beside a running service: nothing is registered, moved or written but a file of no length beside the journal.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from urllib.parse import urlsplit

from ivr.config import Config
from ivr.doctor_finding import Finding, Level, fault, ok
from ivr.doctor_line import line, ports
from ivr.doctor_machine import journal, machine, model, prompts, tls
from ivr.errors import FirmlineError
from ivr.parts import asterisk_options
from ivr.pbx.check import examine as asterisk

CONNECT_S = 4.0


async def examine(config: Config) -> list[Finding]:
    """Everything, in the order in which a call needs it."""
    found = [*machine(config), *journal(config), model(config), *prompts(config), *tls(config)]
    found += await ports(config)
    found += await line(config)
    found += await pbx(config)
    found += await receivers(config)
    return found


# --- the PBX and who is told ------------------------------------------------------------------------------------------


async def pbx(config: Config) -> list[Finding]:
    """All of ``firmline pbx-check``, or the control address."""
    if config.pbx.kind != "asterisk":
        if not config.pbx.control_url:
            what = "pbx.control_url is empty: callers are warned, but no call can be transferred or ended"
            return [Finding(Level.WARN, "pbx", what, "set it to your PBX's control endpoint, if endings are wanted")]
        return [await _reachable("pbx", config.pbx.control_url, "pbx.control_url")]
    targets = (config.pbx.transfer_to, *config.pbx.asterisk.fallbacks)
    try:
        found = await asterisk(asterisk_options(config), targets)
    except FirmlineError as exc:  # a secret or certificate that cannot be read
        return [fault("pbx", str(exc), "correct the key named")]
    return [replace(each, name=f"pbx {each.name}") for each in found]


async def receivers(config: Config) -> list[Finding]:
    """Webhook receivers: reachable, certificate good. Nothing is sent: that is ``firmline webhooks test``."""
    return list(
        await asyncio.gather(*(_reachable(f"webhook {e.name}", e.url, "url") for e in config.webhooks.endpoints))
    )


async def _reachable(name: str, url: str, key: str) -> Finding:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    context = ssl.create_default_context() if secure else None
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
        writer.close()
    except TimeoutError:
        return fault(name, f"{host}:{port} does not answer", f"a firewall drops it, or {key} names another machine")
    except ssl.SSLCertVerificationError as exc:
        step = "renew it, or trust its issuer here: SSL_CERT_FILE=/path/ca.pem in the service's environment"
        return fault(name, f"{host}:{port}: its certificate is not accepted: {exc.verify_message}", step)
    except ssl.SSLError as exc:
        return fault(name, f"{host}:{port} does not speak TLS ({exc.reason})", f"should {key} begin with http:// ?")
    except ConnectionRefusedError:
        return fault(name, f"nothing listens at {host}:{port}", f"is the receiver up, and {key} its address?")
    except OSError as exc:
        return fault(name, f"{host}:{port} cannot be reached: {exc.strerror or exc}", f"check {key} and the network")
    return ok(name, f"{host}:{port} can be reached")
