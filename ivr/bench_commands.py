"""``firmline bench``: each command measures one table of docs/benchmarks*.md; thin, and imports what it needs late."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from ivr.cli import Context, cli, shared_options
from ivr.cli_output import progress, quiet_logging, table, tenths
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
    """End of the abusive words, or a key press, to the first prompt packet at the caller: median and worst.

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
@click.option("--rounds", type=click.IntRange(1, 20), default=1, show_default=True, help="Rounds of ours and peers.")
@click.option("--minutes", type=click.FloatRange(1, 120), default=10.0, show_default=True, help="The monologue.")
@click.option("--noise", type=click.FloatRange(1, 240), default=30.0, show_default=True, help="Minutes of no speech.")
@click.option(
    "--peers",
    is_flag=True,
    help="Also WhisperLive (in real time; an environment is made for it in your cache folder, once) and a growing "
    "buffer with LocalAgreement-2; some ten minutes more a round.",
)
@click.option("--batches", is_flag=True, help="Many calls also with one segment a pass.")
@Json
@shared_options
@click.pass_obj
def bench_ears(
    context: Context, rounds: int, minutes: float, noise: float, peers: bool, batches: bool, as_json: bool
) -> None:
    """How well, how soon and at what cost words are heard; ours and as shipped, many calls, noises, a monologue.

    Under ten minutes on an idle core without --peers. Costs are CPU time, and lateness is simulated from them, so a
    busy machine does not falsify them much. WhisperLive alone runs in real time: its loop decodes whenever it can. Ends
    1 when a word came out of what is no speech.

    \b
    Example:
      firmline bench ears --rounds 1 --noise 5
      firmline bench ears --peers
    """
    from ivr.bench_ears_run import EarsBench

    quiet_logging(context)
    ears = EarsBench(context.config(), progress)
    table(ears.talker(rounds, peers=peers), as_json)
    table(ears.many(((60, 2, 0), (25, 2, 700)), 60, (1, 8) if batches else (8,)), as_json)
    table(ears.monologue(minutes), as_json)
    nothing = ears.nothing(noise)
    table(nothing, as_json)
    if nothing["words"]:
        raise FirmlineError("words were heard where nobody spoke")


@bench.command("judgement")
@click.option(
    "--labels", required=True, type=click.Path(path_type=Path), metavar="CSV", help="text,label; as `firmline tune`."
)
@click.option("--pack", default="standard", show_default=True, metavar="NAME|FILE", help="Which rule is kept.")
@click.option("--voices", type=click.IntRange(1, 4), default=2, show_default=True, help="Voices a line, in turn.")
@click.option("--prompt", metavar="TEXT", help="Another initial_prompt than the bench's own.")
@click.option("--most", type=click.IntRange(1), metavar="N", help="Only the first N lines.")
@Json
@shared_options
@click.pass_obj
def bench_judgement(
    context: Context, labels: Path, pack: str, voices: int, prompt: str | None, most: int | None, as_json: bool
) -> None:
    """What is left of the judgement after a telephone line and our ears: recall and false strikes, spoken.

    Speaks labelled lines (flite, espeak-ng, Piper; clips are kept in your cache folder), sends them through mu-law at 8
    kHz, clean and with noise 10 dB below, hears them as a live call does, with one look only, and with an initial
    prompt, and judges what was heard. The same lines as text are the yardstick.

    \b
    Example:
      firmline bench judgement --labels tests/data/utterances_dev.csv
    """
    from ivr.bench_judgement import KEPT, PROMPT, JudgementBench
    from ivr.bench_voices import Clips
    from ivr.tuning import load_labels

    quiet_logging(context)
    rows = [row for row in load_labels(labels) if row.text][:most]
    if not rows:
        raise FirmlineError(f"{labels}: no row has text")
    judge = JudgementBench(context.config(), pack, prompt or PROMPT)
    steps = judge.steps(rows, voices)
    if sys.stderr.isatty():
        with click.progressbar(length=steps, label="lines", file=sys.stderr) as bar:
            result = judge.run(rows, voices, bar.update, Clips())
    else:
        result = judge.run(rows, voices, tenths(steps, "steps"), Clips())
    table(result, as_json)
    if not as_json:
        click.echo(
            f"\nStill struck, of what is struck as text, by voice: {result[KEPT]}; load {result['load average']}"
        )
