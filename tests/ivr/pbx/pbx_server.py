"""A real Asterisk for tests: the chroot of `make pbx` with a configuration of its own per run. Not a test module."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

AMI_USER, AMI_SECRET = "firmline", "ami-secret"
SIP_PASSWORD = "sip-secret"
MANY = tuple(str(ext) for ext in range(210, 222))
PHONES = ("pat", "201", "202", "203", "299", *MANY)
UP_CEILING_S = 30.0
DEPLOY = Path(__file__).parents[3] / "deploy" / "asterisk"
"""The snippets that people paste are what the tests run with."""

MODULES = """[modules]
autoload=no
load=res_timing_timerfd.so
load=res_sorcery_config.so
load=res_sorcery_memory.so
load=res_sorcery_astdb.so
load=res_pjproject.so
load=res_pjsip.so
load=res_pjsip_acl.so
load=res_pjsip_authenticator_digest.so
load=res_pjsip_caller_id.so
load=res_pjsip_endpoint_identifier_user.so
load=res_pjsip_header_funcs.so
load=res_pjsip_logger.so
load=res_pjsip_nat.so
load=res_pjsip_outbound_authenticator_digest.so
load=res_pjsip_pubsub.so
load=res_pjsip_refer.so
load=res_pjsip_registrar.so
load=res_pjsip_rfc3326.so
load=res_pjsip_sdp_rtp.so
load=res_pjsip_session.so
load=res_rtp_asterisk.so
load=res_musiconhold.so
load=res_parking.so
load=bridge_builtin_features.so
load=bridge_builtin_interval_features.so
load=bridge_holding.so
load=bridge_native_rtp.so
load=bridge_simple.so
load=bridge_softmix.so
load=chan_pjsip.so
load=codec_alaw.so
load=codec_ulaw.so
load=format_pcm.so
load=format_wav.so
load=func_callerid.so
load=func_config.so
load=func_channel.so
load=func_devstate.so
load=func_dialplan.so
load=func_extstate.so
load=func_module.so
load=func_pjsip_aor.so
load=func_version.so
load=func_global.so
load=func_pjsip_endpoint.so
load=app_bridgeaddchan.so
load=app_chanspy.so
load=app_dial.so
load=app_echo.so
load=app_playback.so
load=app_queue.so
load=app_stack.so
load=app_userevent.so
load=app_verbose.so
load=pbx_config.so
"""


class PbxServer:
    """One Asterisk process on loopback. ``start``, then ``phones_at(port)`` says where the phones are."""

    def __init__(
        self, root: Path, log_folder: Path, more_phones: Sequence[str] = (), *, timestamps: bool = False
    ) -> None:
        """``timestamps``: manager events say when they happened."""
        self.root, self.log_folder, self._timestamps = root, log_folder, timestamps
        self.phones = (*PHONES, *more_phones)
        self.name = f"firmline-{uuid.uuid4().hex[:8]}"
        self.inside = f"/tmp/{self.name}"
        self.folder = root / "tmp" / self.name
        self.sip_port, self.ami_port = _free(socket.SOCK_DGRAM), _free(socket.SOCK_STREAM)
        self.mute_port = _free(socket.SOCK_DGRAM)
        """Where the phone of agent 203 would be, which never sends a packet of sound (see `mute_phone`)."""
        self.tls_port = _free(socket.SOCK_STREAM)
        self.rtp_low = _free_range(400)
        self.registrar_port = self.sip_port
        self._process: subprocess.Popen[bytes] | None = None
        self._phone_port, self._direct_media = 9, False
        self.unregistered: set[str] = set()

    # --- configuration ------------------------------------------------------------------------------------------------

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def write_config(self) -> None:
        """Everything Asterisk reads, in a folder of this run's own."""
        for part in ("", "var", "run", "spool", "log"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        directories = {
            "astetcdir": "", "astvarlibdir": "/var", "astdbdir": "/var", "astkeydir": "/var", "astspooldir": "/spool",
            "astrundir": "/run", "astlogdir": "/log", "astagidir": "/var",
        }  # fmt: skip
        lines = "\n".join(f"{key} => {self.inside}{value}" for key, value in directories.items())
        modules = next(
            path for path in self.root.glob("usr/lib/**/asterisk/modules") if (path / "chan_pjsip.so").exists()
        )
        shipped = f"astdatadir => /usr/share/asterisk\nastmoddir => /{modules.relative_to(self.root)}\n"
        self._write("asterisk.conf", f"[directories]\n{lines}\n{shipped}[options]\nverbose=3\n")
        self._write("modules.conf", MODULES)
        self._write("logger.conf", "[general]\n[logfiles]\nmessages.log => notice,warning,error,verbose\n")
        self._write("rtp.conf", f"[general]\nrtpstart={self.rtp_low}\nrtpend={self.rtp_low + 399}\n")
        kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        names = ["-subj", "/CN=pbx", "-addext", "subjectAltName=DNS:pbx.example"]
        files = ["-keyout", str(self.folder / "ami.key"), "-out", str(self.folder / "ami.crt")]
        subprocess.run(["openssl", "req", *kind, *names, *files], check=True, capture_output=True)
        self._write("manager.conf", self._manager())
        self._write("extensions.conf", _EXTENSIONS)
        self._write("queues.conf", _QUEUES)
        self._write("musiconhold.conf", "[default]\nmode=files\ndirectory=/usr/share/asterisk/moh\n")
        self._write("res_parking.conf", "[general]\n[default]\nparkpos => 701-705\ncontext => parked\n")
        self._write("features.conf", "[general]\n" + (DEPLOY / "features_firmline.conf").read_text())
        self._write("pjsip.conf", self._pjsip())

    def _manager(self) -> str:
        general = f"[general]\nenabled=yes\nbindaddr=127.0.0.1\nport={self.ami_port}\nwebenabled=no\n"
        general += "timestampevents=yes\n" * self._timestamps
        general += f"tlsenable=yes\ntlsbindaddr=127.0.0.1:{self.tls_port}\n"
        general += f"tlscertfile={self.inside}/ami.crt\ntlsprivatekey={self.inside}/ami.key\n"
        firmline = (DEPLOY / "manager_firmline.conf").read_text().replace("CHANGE-ME-AMI", AMI_SECRET)
        only_local = "deny=0.0.0.0/0.0.0.0\npermit=127.0.0.1/255.255.255.255\n"
        blind = f"[blind]\nsecret={AMI_SECRET}\n{only_local}read=\nwrite=\n"
        deaf = f"[deaf]\nsecret={AMI_SECRET}\n{only_local}read=\nwrite=call,originate,agent\n"
        return general + firmline + blind + deaf

    def _pjsip(self) -> str:
        out = f"[transport]\ntype=transport\nprotocol=udp\nbind=127.0.0.1:{self.sip_port}\n"
        common = "disallow=all\nallow=ulaw\nmedia_address=127.0.0.1\nbind_rtp_to_media_address=yes\n"
        out += "[global]\ntype=global\nendpoint_identifier_order=username\ncontact_expiration_check_interval=1\n"
        for phone in self.phones:
            out += f"[{phone}]\ntype=endpoint\ncontext=internal\naors={phone}\ncallerid=<{phone}>\n{common}"
            out += f"from_domain=127.0.0.1\ndirect_media={'yes' if self._direct_media else 'no'}\n"
            if phone == "202":  # an agent's phone with the hidden keys
                out += "set_var=DYNAMIC_FEATURES=firmline_warn#firmline_pause#firmline_unpause\n"
            port = self.mute_port if phone == "203" else self._phone_port
            contact = "" if phone in self.unregistered else f"contact=sip:{phone}@127.0.0.1:{port}\n"
            out += f"[{phone}]\ntype=aor\n{contact}"
        out += (
            "[careless]\ntype=endpoint\ncontext=internal\naors=careless\ndisallow=all\nallow=g722\ndirect_media=yes\n"
        )
        out += "[careless]\ntype=aor\nmax_contacts=5\n"
        ours = (DEPLOY / "pjsip_firmline.conf").read_text().replace("CHANGE-ME-SIP", SIP_PASSWORD)
        loopback = "media_address=127.0.0.1\nbind_rtp_to_media_address=yes\ndisallow=all\n"
        ours = ours.replace("disallow=all\n", loopback).replace(
            "max_contacts=1\n", "max_contacts=1\nminimum_expiration=1\n"
        )
        second = ours.replace("[firmline]", "[firmline2]").replace("username=firmline", "username=firmline2")
        second = second.replace("aors=firmline\n", "aors=firmline2\n").replace("auth=firmline\n", "auth=firmline2\n")
        return out + ours + second

    # --- running ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start and wait until it is fully booted."""
        self.write_config()
        # It tells systemd when it is ready; an abstract socket is reached from inside a chroot as well.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(f"\0{self.name}")
            with open(self.log_folder / "asterisk.out", "ab") as out:
                self._process = subprocess.Popen(
                    ["chroot", str(self.root), "asterisk", "-f", "-C", f"{self.inside}/asterisk.conf"],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                    env={**os.environ, "NOTIFY_SOCKET": f"@{self.name}"},
                )  # fmt: skip
            process = os.pidfd_open(self._process.pid)
            try:
                while ready in (told := select.select([ready, process], [], [], UP_CEILING_S)[0]):
                    if b"READY=1" in ready.recv(4_096):
                        break
            finally:
                os.close(process)
            if ready not in told:
                what = "ended before it was up" if told else "did not boot in time"
                raise RuntimeError(f"Asterisk {what}; see {self.log_folder}")
        self.cli("core waitfullybooted")

    def cli(self, command: str, *, check: bool = True) -> str:
        """One command of Asterisk's own console."""
        done = subprocess.run(
            ["chroot", str(self.root), "asterisk", "-C", f"{self.inside}/asterisk.conf", "-rx", command],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout

    def phones_at(self, port: int, *, unregistered: set[str] | None = None, direct_media: bool = False) -> None:
        """The phones are at this port now; ``unregistered`` ones have no contact."""
        self._phone_port, self.unregistered, self._direct_media = port, unregistered or set(), direct_media
        self._write("pjsip.conf", self._pjsip())
        self.cli("module reload res_pjsip.so")

    def channels(self) -> list[str]:
        """Names of all channels."""
        lines = self.cli("core show channels concise").splitlines()
        return [line.split("!")[0] for line in lines if "!" in line]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def forget(self) -> None:
        """Throw away what it remembers of registrations, as a reinstalled PBX would."""
        shutil.rmtree(self.folder / "var", ignore_errors=True)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL and collect."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)
            self._process = None

    def stop(self) -> None:
        """End it; keep its log beside the test's own, leave nothing in the chroot."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self.kill()
        messages = self.folder / "log" / "messages.log"
        if messages.exists():
            shutil.copy(messages, self.log_folder / "asterisk.log")
        shutil.rmtree(self.folder, ignore_errors=True)


_EXTENSIONS = """[internal]
exten => _2XX,1,Dial(PJSIP/${EXTEN},30)
 same => n,Hangup()
exten => 600,1,Queue(support)
exten => pat,1,Dial(PJSIP/pat,30)
exten => 610,1,Set(__FIRMLINE=1)
 same => n,Set(FIRMLINE_AGENT=7001)
 same => n,Dial(PJSIP/202,30)
exten => 612,1,Set(__FIRMLINE=1)
 same => n,Set(FIRMLINE_AGENT=anna, (west) "2" [x)
 same => n,Dial(PJSIP/202,30)
exten => 611,1,Set(FIRMLINE=agent)
 same => n,Dial(PJSIP/pat,30)
exten => 201,hint,PJSIP/201
exten => 299,hint,PJSIP/299
exten => 700,1,Park()
exten => 701,1,ParkedCall(default,701)
exten => 601,1,Answer()
 same => n,Echo()

[members]
exten => _2XX,1,Dial(PJSIP/${EXTEN},30)
"""

_QUEUES = """[support]
strategy=ringall
ringinuse=yes
member => Local/201@members/n,0,agent,PJSIP/201
"""


def _free(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free_range(size: int) -> int:
    """A start from which ports are mostly free; below the kernel's ephemeral range."""
    return 14_000 + 2 * (os.getpid() % 2_000) + size - size


def find_root() -> tuple[Path | None, str]:
    """The chroot of `make pbx`, or why it cannot be used."""
    given, version = os.environ.get("FIRMLINE_PBX_DIR"), os.environ.get("FIRMLINE_PBX", "22")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    root = Path(given) if given else cache / "firmline" / {"22": "asterisk", "16": "asterisk16"}[version]
    if not (root / ".complete").exists():
        return None, f"no Asterisk in {root}: `make pbx PBX={version}` builds it"
    if os.geteuid() != 0:
        return None, "running Asterisk in its folder needs root (chroot)"
    return root, ""
