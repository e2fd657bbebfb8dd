"""``firmline doctor``: why does it not work? The common causes in plain words, with the next step.

``firmline check`` says whether settings are valid and what they would use; this looks at the machine and around it.

Harmless beside a running service: nothing is registered, moved or written but a file of no length beside the journal.
"""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

from ivr.config import Config
from ivr.doctor_finding import Finding, Level, fault, ok
from ivr.doctor_line import line, ports
from ivr.doctor_machine import journal, machine, model, prompts, tls
from ivr.errors import FirmlineError
from ivr.parts import asterisk_options
from ivr.pbx.inquiry import survey

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
    """The manager interface, or the control address."""
    if config.pbx.kind != "asterisk":
        if not config.pbx.control_url:
            what = "pbx.control_url is empty: callers are warned, but no call can be transferred or ended"
            return [Finding(Level.WARN, "pbx", what, "set it to your PBX's control endpoint, if endings are wanted")]
        return [await _reachable("pbx", config.pbx.control_url, "pbx.control_url")]
    where = f"{config.pbx.asterisk.host}:{config.pbx.asterisk.port}"
    try:
        told = await survey(asterisk_options(config), (config.pbx.transfer_to, *config.pbx.asterisk.fallbacks))
    except FirmlineError as exc:
        return [fault("pbx", str(exc), manager_step(str(exc), where))]
    if "; but " in told:
        step = "register a phone at the extensions named, or correct pbx.transfer_to, fallbacks and context"
        return [Finding(Level.WARN, "pbx", told, step)]
    return [ok("pbx", told)]


def manager_step(error: str, where: str) -> str:
    """What to do about an error of the manager interface."""
    if "refused user" in error:
        return (
            "compare secret= in manager.conf with pbx.asterisk.secret, and let permit= of that user hold our address "
            "(deny=0.0.0.0/0.0.0.0, permit=OUR.ADDRESS/255.255.255.255); then `manager reload`"
        )
    if "may not do" in error or "no events reach" in error:
        return "`firmline pbx-check` prints the lines to paste into manager.conf; then `manager reload` on the PBX"
    if "no Asterisk manager" in error:
        return f"something else answers at {where}: the manager's port is 5038 unless manager.conf says otherwise"
    if "refused" in error.lower():
        return (
            f"nothing listens at {where}: [general] enabled=yes and bindaddr= (0.0.0.0 or the address we dial) in "
            "manager.conf, then `core restart when convenient`; `manager show settings` tells what holds"
        )
    return f"no way to {where}: check pbx.asterisk.host and the firewalls (TCP); on the PBX: `ss -ltnp sport = :5038`"


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
