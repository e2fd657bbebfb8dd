"""From settings to parts, without a socket: what ``run``, ``check``, ``replay`` and ``transcribe`` share."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from audio.endpoint import EndpointOptions
from audio.prompts import Catalogue
from audio.vad import VadOptions
from ivr.call import CallOptions
from ivr.config import Config, ManagerTlsConfig, resolve_secret
from ivr.drafts import DraftOptions
from ivr.errors import ConfigError
from ivr.judge import load_pack, with_meaning
from ivr.listener import Listener, ListenerOptions
from ivr.menu import MenuOptions
from ivr.pbx.ami import AmiOptions
from ivr.pbx.guarded import MarkOptions
from ivr.pbx.inquiry import AsteriskOptions
from ivr.pbx.phone_keys import PhoneKeyOptions
from ivr.prompts import load_catalogue
from ivr.webhook_sender import DeliveryOptions, Hook
from ivr.webhooks import WebhookError, secret_key
from policies.pack import Mode, Pack
from policies.types import Side

ASTERISK_LINGER_MS = 60_000
"""A caller may wait that long between two agents (a queue, a park) and still be the one who was warned; when the call
is really over the PBX says so at once."""


AMI_TIMEOUT_MS = 5_000
"""The manager interface answers in milliseconds; what takes longer (a supervisor who picks up) has its own setting."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What rules and prompts a config resolves to, without opening a socket."""

    pack: Pack
    catalogue: Catalogue
    queues: Mapping[str, Pack] = field(default_factory=dict)
    """Packs of queues with a rule of their own."""

    def with_meaning(self) -> Parts:
        """The same, with each pack's reader of meaning: takes as long to load as all the rest."""
        queues = {queue: with_meaning(pack) for queue, pack in self.queues.items()}
        return Parts(with_meaning(self.pack), self.catalogue, queues)


def load_rules(config: Config, files: set[Path] | None = None, *, meaning: bool = True) -> tuple[Pack, dict[str, Pack]]:
    """The pack in force, and those of queues with a rule of their own; each in its mode.

    ``meaning=False`` leaves the reader of meaning to ``Parts.with_meaning``.

    Raises:
        ConfigError: a pack cannot be used.
    """
    policy = config.policy

    def rule(name: str, mode: str) -> Pack:
        return load_pack(name, meaning=meaning, files=files).in_mode(None if mode == "pack" else Mode(mode))

    queues: dict[str, Pack] = {}
    for queue, own in policy.queues.items():
        # A queue with a pack of its own and no mode goes as far as everybody, or as that pack says.
        queues[queue] = rule(own.pack or policy.pack, own.mode or policy.mode)
    return rule(policy.pack, policy.mode), queues


def load_prompts(config: Config, *packs: Pack) -> Catalogue:
    """The catalogue, holding every prompt that ``packs`` may ask for.

    Raises:
        ConfigError: a file is missing or broken, or the pack names a prompt that is not there.
    """
    catalogue = load_catalogue(Path(config.prompts.directory) if config.prompts.directory else None)
    for pack in packs:
        missing = catalogue.missing(sorted(pack.prompt_names()))
        if not missing:
            continue
        where = config.prompts.directory or "the shipped catalogue"
        raise ConfigError(f"pack {pack.name}: prompts not found in {where}: {', '.join(missing)}")
    return catalogue


def listener_factory(config: Config) -> Callable[[Side], Listener]:
    """What makes the ears of one leg."""
    options = listener_options(config)
    return lambda side: Listener(options, side)


def listener_options(config: Config) -> ListenerOptions:
    """How a leg is listened to."""
    e = config.ears.endpointing
    return ListenerOptions(
        endpoint=EndpointOptions(
            onset_ms=e.onset_ms,
            hangover_ms=e.hangover_ms,
            tail_ms=e.tail_ms,
            offers=True,
            pre_roll_ms=e.pre_roll_ms,
            min_speech_ms=e.min_speech_ms,
            max_utterance_ms=e.max_utterance_ms,
        ),
        vad=VadOptions(aggressiveness=e.vad_aggressiveness),
    )


def _draft_options(every_ms: int) -> DraftOptions:
    usual = DraftOptions()
    return DraftOptions(every_ms, min(every_ms, usual.tense_every_ms) or usual.tense_every_ms)


def call_options(config: Config) -> CallOptions:
    """Per-call settings."""
    return CallOptions(
        transcribe_agent=config.ears.transcribe_agent,
        echo_tail_ms=config.prompts.echo_tail_ms,
        no_audio_ms=config.ears.no_audio_ms,
        linger_ms=ASTERISK_LINGER_MS if config.pbx.kind == "asterisk" else CallOptions().linger_ms,
        drafts=_draft_options(config.ears.partial_every_ms),
        end_at_sentence=config.ears.endpointing.end_at_sentence,
    )


def menu_options(config: Config) -> MenuOptions:
    """How the menu waits and what it does with those who press nothing."""
    menu = config.menu
    return MenuOptions(menu.wait_ms, menu.repeats, menu.max_invalid, menu.default)


def _manager_tls(tls: ManagerTlsConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file or None)
    except (OSError, ssl.SSLError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise ConfigError(f"pbx.asterisk.tls.ca_file: cannot be used: {tls.ca_file}: {why}") from exc
    if not tls.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def asterisk_options(config: Config) -> AsteriskOptions:
    """How the PBX is watched and acted on.

    Raises:
        ConfigError: the secret cannot be read.
    """
    pbx, asterisk = config.pbx, config.pbx.asterisk
    secret = resolve_secret(asterisk.secret, "pbx.asterisk.secret")
    return AsteriskOptions(
        ami=AmiOptions(
            asterisk.host,
            asterisk.port,
            asterisk.username,
            secret,
            min(pbx.timeout_ms, AMI_TIMEOUT_MS),
            tls=_manager_tls(asterisk.tls) if asterisk.tls.enabled else None,
            tls_name=asterisk.tls.server_name,
        ),
        tap_endpoint=asterisk.tap_endpoint or config.line.username,
        agents=tuple(asterisk.agents),
        colleagues=tuple(asterisk.colleagues),
        context=asterisk.context,
        fallbacks=tuple(asterisk.fallbacks),
        answer_ms=asterisk.answer_timeout_ms,
        pause_ms=asterisk.pause_s * 1000,
        transfer_to=pbx.transfer_to,
        marks=MarkOptions(tuple(asterisk.queues), asterisk.variable),
        keys=PhoneKeyOptions(asterisk.keys.digits, asterisk.keys.agents, asterisk.keys.timeout_ms),
    )


def webhook_hooks(config: Config) -> list[Hook]:
    """Where events are told.

    Raises:
        ConfigError: a secret cannot be read or used.
    """
    hooks = []
    for index, each in enumerate(config.webhooks.endpoints):
        key = f"webhooks.endpoints[{index}].secret"
        secret = resolve_secret(each.secret, key)
        try:
            secret_key(secret)
        except WebhookError as exc:
            raise ConfigError(f"{key}: {exc}") from None
        hooks.append(Hook(each.name, each.url, secret, frozenset(each.events), each.words))
    return hooks


def delivery_options(config: Config) -> DeliveryOptions:
    """How webhooks are retried."""
    hooks = config.webhooks
    return DeliveryOptions(
        hooks.timeout_ms,
        hooks.retry_first_ms,
        hooks.retry_max_ms,
        hooks.max_age_hours * 3_600_000,
        hooks.max_waiting,
    )
