"""What Prometheus is told. One registry per service, so that two in one process (tests, the demo) never mix.

Labels come from closed sets only: never a call, an extension or a word, which would grow without bound and name people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ivr.lines.base import RegistrationState

_log = structlog.get_logger("firmline.metrics")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REACTION_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_STALL_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_LAG_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """All counters of one service. Every method is cheap and is called on the loop."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._judging(self.registry)
        self._reacting(self.registry)
        self._running(self.registry)
        Gauge("firmline_build_info", "Always 1; the version is the label", ["version"], registry=self.registry).labels(
            version
        ).set(1)

    def render(self) -> bytes:
        """The text exposition, of type ``CONTENT_TYPE``."""
        return generate_latest(self.registry)

    # --- calls and judgement ---

    def _judging(self, registry: CollectorRegistry) -> None:
        self._calls_live = Gauge("firmline_calls_live", "Calls being heard now", registry=registry)
        self._legs_live = Gauge("firmline_legs_live", "Tap legs up now", registry=registry)
        self._calls = Counter("firmline_calls", "Calls begun", registry=registry)
        self._utterances = Counter(
            "firmline_utterances",
            "Utterances decoded; dropped names the guard that discarded one, or is none",
            ["side", "dropped"],
            registry=registry,
        )
        self._strikes = Counter("firmline_strikes", "Strikes counted", ["track"], registry=registry)
        self._actions = Counter("firmline_actions", "Actions carried out", ["kind", "result"], registry=registry)
        self._hotkeys = Counter("firmline_hotkeys", "Keys pressed by people", ["key"], registry=registry)
        self._told = Counter("firmline_notices", "Sentences shown to people", ["audience", "page"], registry=registry)
        self._refused = Counter("firmline_legs_refused", "Tap legs without usable headers", registry=registry)
        self._faults = Counter(
            "firmline_internal_errors", "Faults of ours that cost a step but no call", ["where"], registry=registry
        )

    def call_began(self) -> None:
        """A call is being heard."""
        self._calls.inc()
        self._calls_live.inc()

    def call_ended(self) -> None:
        """A call is over."""
        self._calls_live.dec()

    def leg_up(self) -> None:
        """A tap leg was answered."""
        self._legs_live.inc()

    def leg_down(self) -> None:
        """A tap leg that was up is over."""
        self._legs_live.dec()

    def utterance(self, side: str, dropped: str | None = None) -> None:
        """The recogniser is done with one utterance; ``dropped`` names the guard that discarded it."""
        self._utterances.labels(side, dropped or "none").inc()

    def strike(self, track: str) -> None:
        """The ladder counted one strike."""
        self._strikes.labels(track).inc()

    def action(self, kind: str, result: str) -> None:
        """One action ended; ``result`` is ``done`` or ``failed``."""
        self._actions.labels(kind, result).inc()

    def hotkey(self, key: str) -> None:
        """A person pressed a key."""
        self._hotkeys.labels(key).inc()

    def told(self, audience: str, *, page: bool) -> None:
        """A sentence was shown to ``agent`` or ``supervisor``; ``page`` asked for attention now."""
        self._told.labels(audience, str(page).lower()).inc()

    def leg_refused(self) -> None:
        """A tap leg did not say whose it is."""
        self._refused.inc()

    def internal_error(self, where: str) -> None:
        """Something of ours raised; the call went on."""
        self._faults.labels(where).inc()

    # --- reaction times ---

    def _reacting(self, registry: CollectorRegistry) -> None:
        steps = (
            ("firmline_heard_to_decided_seconds", "End of the words to the decision"),
            ("firmline_decided_to_first_rtp_seconds", "Decision to the first prompt packet"),
            ("firmline_heard_to_first_rtp_seconds", "End of the words to the first prompt packet"),
        )
        self._to_decided, self._to_rtp, self._whole = (
            Histogram(name, text, ["kind"], buckets=_REACTION_S, registry=registry) for name, text in steps
        )
        self._asr_lag = Histogram(
            "firmline_asr_lag_seconds", "Segment handed over to transcript back", buckets=_LAG_S, registry=registry
        )
        self._asr_decode = Histogram(
            "firmline_asr_decode_seconds", "Time the recogniser itself took", buckets=_LAG_S, registry=registry
        )

    def reaction(self, kind: str, heard_ms: int | None, decided_ms: int, first_rtp_ms: int | None) -> None:
        """One action's times on the call clock; ``heard_ms`` is None when a person asked for it."""
        if heard_ms is not None:
            self._to_decided.labels(kind).observe(max(0, decided_ms - heard_ms) / 1000)
        if first_rtp_ms is not None:
            self._to_rtp.labels(kind).observe(max(0, first_rtp_ms - decided_ms) / 1000)
        if heard_ms is not None and first_rtp_ms is not None:
            self._whole.labels(kind).observe(max(0, first_rtp_ms - heard_ms) / 1000)

    def asr_decoded(self, lag_ms: int, decode_ms: int) -> None:
        """A transcript came back ``lag_ms`` after its segment was handed over; decoding took ``decode_ms`` of it."""
        self._asr_lag.observe(max(0, lag_ms) / 1000)
        self._asr_decode.observe(max(0, decode_ms) / 1000)

    # --- the machine ---

    def _running(self, registry: CollectorRegistry) -> None:
        self._stall = Histogram(
            "firmline_loop_stall_seconds", "How late the event loop ran", buckets=_STALL_S, registry=registry
        )
        self._stall_max = Gauge("firmline_loop_stall_max_seconds", "Worst stall since the start", registry=registry)
        self._worst_ms = 0.0
        self._registration = Gauge(
            "firmline_registration", "1 for the present registration state", ["state"], registry=registry
        )
        self.registration(RegistrationState.UNREGISTERED)
        self._reloads = Counter("firmline_config_reloads", "Changed settings read", ["result"], registry=registry)
        for result in ("ok", "refused"):
            self._reloads.labels(result)
        self._reload_failed = Gauge(
            "firmline_config_reload_failed",
            "1 while the settings on disk are refused and older ones hold",
            registry=registry,
        )
        self._reload_ok_at = Gauge(
            "firmline_config_last_reload_ok_timestamp_seconds", "When settings were last taken, UTC", registry=registry
        )
        self._restart_wanted = Gauge(
            "firmline_config_restart_wanted", "Changed settings that wait for a restart", registry=registry
        )

    def config_in_force(self, at_s: float) -> None:
        """The settings that the service started with are in force."""
        self._reload_ok_at.set(at_s)

    def config_reload(self, at_s: float, *, restart_wanted: int) -> None:
        """Changed settings were taken, but for so many keys that need a restart."""
        self._reloads.labels("ok").inc()
        self._reload_failed.set(0)
        self._reload_ok_at.set(at_s)
        self._restart_wanted.set(restart_wanted)

    def config_refused(self) -> None:
        """The settings on disk cannot be used."""
        self._reloads.labels("refused").inc()
        self._reload_failed.set(1)

    def loop_stall(self, late_ms: float) -> None:
        """The event loop ran a tick ``late_ms`` late."""
        self._stall.observe(late_ms / 1000)
        if late_ms > self._worst_ms:
            self._worst_ms = late_ms
            self._stall_max.set(late_ms / 1000)

    def counted_elsewhere(self, name: str, text: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Expose totals that an engine already keeps: ``read()`` gives total by kind, each time the page is read.

        They appear as the counter ``firmline_<name>_total{what=...}``; values that also fall go by
        ``measured_elsewhere``.
        """
        self.registry.register(_Elsewhere(CounterMetricFamily, f"firmline_{name}", text, read))

    def measured_elsewhere(self, name: str, text: str, read: Callable[[], Mapping[str, float]]) -> None:
        """The same for present values, such as a queue's length: the gauge ``firmline_<name>{what=...}``."""
        self.registry.register(_Elsewhere(GaugeMetricFamily, f"firmline_{name}", text, read))

    def registration(self, state: RegistrationState) -> None:
        """Where we stand with the registrar."""
        for each in RegistrationState:
            self._registration.labels(each.value).set(each is state)


_Family = CounterMetricFamily | GaugeMetricFamily


class _Elsewhere(Collector):
    """Reads an engine's own numbers when the page is rendered; one that fails leaves out its own lines only."""

    def __init__(self, family: type[_Family], name: str, text: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._family, self._name, self._text, self._read = family, name, text, read

    def collect(self) -> list[_Family]:
        (family,) = self.describe()
        try:
            for what, value in self._read().items():
                family.add_metric([what], value)
        except Exception:
            _log.exception("a counter cannot be read", counter=self._name)
            return []
        return [family]

    def describe(self) -> list[_Family]:
        return [self._family(self._name, self._text, labels=["what"])]
