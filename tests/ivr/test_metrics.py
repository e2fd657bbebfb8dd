"""What Prometheus reads, and the stall meter, on a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ivr import clock
from ivr.lines.base import RegistrationState
from ivr.metrics import Metrics
from ivr.stall import StallMeter, StallMonitor


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The rendered page, read by Prometheus' own parser."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def test_metrics_each_method_moves_its_counter() -> None:
    """Every event is found under its name and labels."""
    metrics = Metrics("1.2.3")
    metrics.call_began()
    metrics.call_began()
    metrics.call_ended()
    metrics.leg_up()
    metrics.leg_up()
    metrics.leg_down()
    metrics.utterance("caller")
    metrics.utterance("caller", "no_speech")
    metrics.strike("person")
    metrics.action("warn", "done")
    metrics.hotkey("pardon")
    metrics.told("supervisor", page=True)
    metrics.internal_error("call")
    metrics.asr_decoded(400, 250)
    assert value(metrics, "firmline_calls_live") == 1 and value(metrics, "firmline_calls_total") == 2
    assert value(metrics, "firmline_legs_live") == 1
    assert value(metrics, "firmline_utterances_total", side="caller", dropped="none") == 1
    assert value(metrics, "firmline_utterances_total", side="caller", dropped="no_speech") == 1
    assert value(metrics, "firmline_strikes_total", track="person") == 1
    assert value(metrics, "firmline_actions_total", kind="warn", result="done") == 1
    assert value(metrics, "firmline_hotkeys_total", key="pardon") == 1
    assert value(metrics, "firmline_notices_total", audience="supervisor", page="true") == 1
    assert value(metrics, "firmline_internal_errors_total", where="call") == 1
    assert value(metrics, "firmline_asr_lag_seconds_sum") == 0.4
    assert value(metrics, "firmline_asr_decode_seconds_sum") == 0.25
    assert value(metrics, "firmline_build_info", version="1.2.3") == 1


def test_metrics_reaction_measures_each_step() -> None:
    """Heard, decided and first packet give three times; a person's key has no heard, a failed prompt no packet."""
    metrics = Metrics("1")
    metrics.reaction("warn", heard_ms=1_000, decided_ms=1_400, first_rtp_ms=1_425)
    metrics.reaction("warn", heard_ms=None, decided_ms=2_000, first_rtp_ms=2_010)
    metrics.reaction("warn", heard_ms=3_000, decided_ms=3_200, first_rtp_ms=None)
    assert value(metrics, "firmline_heard_to_decided_seconds_sum", kind="warn") == pytest.approx(0.6)
    assert value(metrics, "firmline_decided_to_first_rtp_seconds_sum", kind="warn") == pytest.approx(0.035)
    assert value(metrics, "firmline_heard_to_first_rtp_seconds_count", kind="warn") == 1
    assert value(metrics, "firmline_heard_to_first_rtp_seconds_bucket", kind="warn", le="0.5") == 1
    assert value(metrics, "firmline_heard_to_first_rtp_seconds_bucket", kind="warn", le="0.3") == 0


def test_metrics_registration_shows_exactly_one_state() -> None:
    """The states exclude each other."""
    metrics = Metrics("1")
    for state in RegistrationState:
        metrics.registration(state)
        shown = {s.value: value(metrics, "firmline_registration", state=s.value) for s in RegistrationState}
        assert shown == {s.value: float(s is state) for s in RegistrationState}


def test_metrics_totals_of_an_engine_are_read_at_each_render() -> None:
    """Numbers that an engine keeps for itself are exposed without copying them about."""
    metrics, totals = Metrics("1"), {"received": 1}
    metrics.counted_elsewhere("media", "Media plane", lambda: totals)
    totals["received"] = 9
    assert value(metrics, "firmline_media_total", what="received") == 9


def test_metrics_of_an_engine_that_fails_cost_its_own_lines_only() -> None:
    """One engine that is not up does not take the page down; present values are gauges."""
    metrics = Metrics("1")
    metrics.counted_elsewhere("broken", "Not up", lambda: {"x": 1 // 0})
    metrics.measured_elsewhere("queue", "Waiting now", lambda: {"asr": 2.0})
    assert value(metrics, "firmline_queue", what="asr") == 2
    assert "firmline_broken" not in metrics.render().decode()


def test_metrics_of_two_services_do_not_mix() -> None:
    """No global registry is used."""
    one, two = Metrics("1"), Metrics("1")
    one.call_began()
    assert value(two, "firmline_calls_live") == 0


def test_stall_meter_counts_the_ticks_that_did_not_happen() -> None:
    """One stall of 100 ms among 20 ms ticks weighs as the five ticks it swallowed."""
    meter = StallMeter(period_ms=20, ring_ticks=100)
    for n in range(95):
        assert meter.tick(n * 20, n * 20 + 0.5) == 0.5
    assert meter.tick(1_900, 2_000) == 100
    assert meter.percentile_ms(94) == 0.5
    assert meter.percentile_ms(99) == 80 and meter.percentile_ms(100) == 100 == meter.worst_ms


def test_stall_meter_early_tick_and_empty_ring_are_zero() -> None:
    """Lateness is never negative; before the first tick there is none."""
    meter = StallMeter()
    assert meter.percentile_ms(99) == 0 and meter.tick(100, 90) == 0 and meter.percentile_ms(99) == 0


def test_stall_meter_endless_stall_costs_bounded_work() -> None:
    """A machine that slept for a day fills the ring once."""
    meter = StallMeter(ring_ticks=10)
    meter.tick(0, 86_400_000)
    assert meter.percentile_ms(1) == 86_400_000 - 9 * 20


def test_stall_monitor_on_an_injected_clock_reports_lateness() -> None:
    """Each tick's lateness goes to the sink, and the next tick is asked for from now."""
    now_ms, asked = [1_000.0], []

    def call_later(delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        asked.append((delay_s, callback))
        return None  # type: ignore[return-value]

    metrics = Metrics("1")
    monitor = StallMonitor(metrics, now_ns=lambda: int(now_ms[0] * 1e6), call_later=call_later)
    monitor.start()
    for late in (0.0, 7.0, 30.0, 1.0):
        delay_s, callback = asked[-1]
        assert delay_s == 0.02
        now_ms[0] += 20 + late
        callback()
    assert monitor.meter.worst_ms == 30 and monitor.p99_ms() == 30
    assert value(metrics, "firmline_loop_stall_seconds_count") == 4
    assert value(metrics, "firmline_loop_stall_max_seconds") == 0.03


async def test_stall_monitor_sees_a_blocked_loop_and_leaves_nothing() -> None:
    """A callback that holds a real loop for 60 ms is measured; after stop nothing ticks."""
    seen: asyncio.Queue[float] = asyncio.Queue()

    class Sink:
        def loop_stall(self, late_ms: float) -> None:
            seen.put_nowait(late_ms)

    monitor = StallMonitor(Sink())
    monitor.start()
    async with asyncio.timeout(5):
        await seen.get()
        until_ms = clock.monotonic_ms() + 60
        while clock.monotonic_ms() < until_ms:
            pass
        while await seen.get() < 35:
            pass
    monitor.stop()
    assert monitor.meter.worst_ms >= 35 and monitor._timer is None
