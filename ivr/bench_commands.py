"""``firmline bench``: each command measures one table of docs/benchmarks*.md; thin, and imports what it needs late."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from ivr.cli import Context, cli, shared_options
from ivr.cli_output import progress, quiet_logging, table
from ivr.errors import FirmlineError

Json = click.option("--json", "as_json", is_flag=True, help="JSON instead of tables: one object a table.")
Out = click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Folder for logs, journal, recordings.  [default: .bench]"
)


@cli.group()
def bench() -> None:
    """Measure: the tables of docs/benchmarks.md, on this machine, with every part real."""


def _folder(out: Path | None) -> Path:
    return (out or Path(".bench")).absolute()


@bench.command("reaction")
@click.option("--runs", type=click.IntRange(1, 200), default=10, show_default=True, help="Abusive calls, one by one.")
@Json
@Out
@shared_options
@click.pass_obj
def bench_reaction(context: Context, runs: int, as_json: bool, out: Path | None) -> None:
    """End of the abusive words to the first prompt packet at the caller: median and worst.

    \b
    Example:
      firmline bench reaction --runs 10
    """
    from ivr.bench import bench_reaction as measure

    quiet_logging(context)
    table(asyncio.run(measure(_folder(out), runs, progress)), as_json)


@bench.command("capacity")
@click.option("--calls", type=click.IntRange(1, 500), default=25, show_default=True, help="At once, two legs each.")
@click.option("--seconds", type=click.FloatRange(40, 7_200), default=120.0, show_default=True, help="How long.")
@click.option(
    "--speak",
    type=click.FloatRange(0.05, 0.9),
    default=0.4,
    show_default=True,
    help="Share of the time in which a caller speaks.",
)
@click.option(
    "--abusive", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Share of calls with an insult."
)
@click.option(
    "--drafts/--no-drafts",
    default=True,
    show_default=True,
    help="Every word visible while it is said (ears.partial_every_ms 700), or finals only (0).",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="ears.workers.")
@Json
@Out
@shared_options
@click.pass_obj
def bench_capacity(
    context: Context,
    calls: int,
    seconds: float,
    speak: float,
    abusive: float,
    drafts: bool,
    workers: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Many calls at once over real SIP and RTP: how late words are, what it costs, what is left over.

    SIPp dials (apt-get install sip-tester); one light process sends the speech and hears the prompts. The service is a
    process of its own, as shipped but for the options below. Lateness is measured from outside: from the packet with
    a word's last sound to the moment when a watcher of the event feed has the word. Share the machine with nothing
    else; how busy the rest of it was is printed.

    Ends 1 when a leg, a final or an expected warning was lost, a sound was heard that nobody expected, or something
    is left over.

    \b
    Example:
      firmline bench capacity --calls 60 --no-drafts
      firmline bench capacity --calls 25 --seconds 300 --json
    """
    from ivr.bench_capacity import Options, faults_of
    from ivr.bench_capacity import bench_capacity as measure

    quiet_logging(context)
    options = Options(calls, seconds, speak, abusive, drafts, workers)
    result = asyncio.run(measure(_folder(out), options, progress))
    table(result, as_json)
    if faults := faults_of(result):
        raise FirmlineError("; ".join(faults))


@bench.command("ears")
@click.option("--rounds", type=click.IntRange(1, 20), default=2, show_default=True, help="Rounds of ours and peers.")
@click.option("--minutes", type=click.FloatRange(1, 120), default=10.0, show_default=True, help="The monologue.")
@click.option("--noise", type=click.FloatRange(1, 240), default=30.0, show_default=True, help="Minutes of no speech.")
@Json
@shared_options
@click.pass_obj
def bench_ears(context: Context, rounds: int, minutes: float, noise: float, as_json: bool) -> None:
    """How well, how soon and at what cost words are heard; ours and as shipped, many calls, noises, a monologue.

    Ends 1 when a word came out of what is no speech. About a quarter of an hour on one core; costs are CPU time, so a
    busy machine does not falsify them.

    \b
    Example:
      firmline bench ears --rounds 1 --noise 5
    """
    from ivr.bench_ears_run import EarsBench

    quiet_logging(context)
    ears = EarsBench(context.config(), progress)
    table(ears.talker(rounds), as_json)
    table(ears.many(((60, 2, 0), (25, 2, 700)), 60), as_json)
    table(ears.monologue(minutes), as_json)
    nothing = ears.nothing(noise)
    table(nothing, as_json)
    if nothing["words"]:
        raise FirmlineError("words were heard where nobody spoke")
