"""The subcommands of ``firmline``; each is thin, and imports what it needs when it runs."""

from __future__ import annotations

import asyncio
import gc
import io
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ivr import hotkey_command, token_command  # noqa: F401  register themselves
from ivr.cli import Context, cli, shared_options
from ivr.cli_output import emit, quiet_logging, set_logging, table
from ivr.config import Config
from ivr.errors import FirmlineError, WavError

if TYPE_CHECKING:
    from ivr.app import App

T = TypeVar("T")
Wavs = click.argument("wavs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="WAV...")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="First line on stdout is the ready event as JSON.")
@shared_options
@click.pass_obj
def run(context: Context, as_json: bool) -> None:
    """The service: registers at the PBX, answers tap legs, keeps the rule.

    Runs until SIGINT or SIGTERM. If it dies, the human calls go on: they live in the PBX. Changed settings and packs
    are taken while it runs, at once on SIGHUP; what cannot be used is refused and the old ones hold.

    \b
    Example:
      firmline run -c /etc/firmline/config.yaml --json
    """
    config = context.config()
    set_logging(config)
    asyncio.run(_run(config, as_json, context))


async def _run(config: Config, as_json: bool, context: Context) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    stopping = loop.create_task(stop.wait())
    app = await _unless(stopping, loop.create_task(_start(config, context)))
    if app is None:
        return
    from ivr.systemd import Systemd

    systemd = Systemd()
    systemd.ready("up; registering at the PBX")
    try:
        if await _unless(stopping, loop.create_task(app.registered.wait())):
            _say_ready(app.ready(), as_json)
            systemd.status(f"ready: {app.ready()['line']}")
        await stopping
    finally:
        systemd.stopping()
        await app.stop()


async def _unless(stopping: asyncio.Task[Any], work: asyncio.Task[T]) -> T | None:
    """What ``work`` comes to; ``None``, and it is cancelled, when we are to stop before."""
    await asyncio.wait({stopping, work}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return None
    return work.result()


async def _start(config: Config, context: Context) -> App:
    """Everything up, in haste: calls may be live whose Firmline has just died.

    The speech model is loaded in processes of its own while this one imports all the rest.
    """
    gc.disable()
    from ivr.ears import begin_ears

    ears = await begin_ears(config)
    try:
        import structlog

        from ivr.app import App
        from ivr.limits import allow_open_files
        from ivr.reload import ConfigSource

        if problem := allow_open_files(config.line.max_legs):
            structlog.get_logger("firmline.app").warning("too few open files allowed", detail=problem)
        app = App(config, ConfigSource(context.path, context.config), ears)
    except BaseException:
        await ears.stop()
        raise
    # What start-up made lives as long as we do. Left among the young, every full collection walks all of it and stalls
    # the loop (measured: 100 ms for 136,000 objects; frozen, none).
    gc.freeze()
    gc.enable()
    # Threads read meaning, receive and pace RTP: each must give the loop its turn sooner than after the usual 5 ms.
    sys.setswitchinterval(0.001)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, app.reload)
    await app.start()
    gc.collect()
    gc.freeze()
    return app


def _say_ready(told: dict[str, str], as_json: bool) -> None:
    """Whoever closed our stdout, or filled its disk, must not cost the calls their ears."""
    import structlog

    try:
        if as_json:
            emit(told)
        else:
            click.echo(
                f"firmline {told['version']} is ready: {told['line']}, PBX {told['pbx']}, "
                f"model {told['model']}, {told['api']}"
            )
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as exc:
        structlog.get_logger("firmline.app").warning("the ready line could not be written", error=str(exc))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout; the last one is the summary.")
@click.option("--speed", type=click.FloatRange(0.5, 4.0), default=1.0, help="Divides pauses between lines; 0.5 to 4.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("firmline-demo"), help="Folder for recordings."
)
@shared_options
@click.pass_obj
def demo(context: Context, as_json: bool, speed: float, out: Path) -> None:
    """Two live calls on this machine, no PBX needed: real softphones, SIP, RTP and Whisper.

    A caller turns on the agent, is warned, goes on, and is handed to the supervisor; another is upset but civil and is
    left alone. Takes about two minutes. Ends 0 only if what should have happened did.

    \b
    Example:
      firmline demo --out /tmp/demo
    """
    from ivr.demo.run import run_demo
    from ivr.demo.show import JsonShow, TerminalShow

    quiet_logging(context)
    summary = asyncio.run(run_demo(out.absolute(), JsonShow() if as_json else TerminalShow(), speed=speed))
    if not summary["ok"]:
        raise SystemExit(1)


@cli.command()
@shared_options
@click.pass_obj
def check(context: Context) -> None:
    """Is everything ready? Validates config, pack, prompts, model and ports, and says what would be used.

    \b
    Example:
      firmline check -c config.yaml
    """
    from ivr.checkup import checkup

    config = context.config()
    click.echo(f"config   ok    {context.source}")
    failed = False
    for item in asyncio.run(checkup(config)):
        failed |= not item.ok
        click.echo(f"{item.name:<8} {'ok   ' if item.ok else 'FAULT'} {item.detail}")
    if failed:
        raise FirmlineError("not ready: see FAULT above")


@cli.command()
@click.option("--pack", "pack_name", metavar="NAME|FILE", help="standard, strict, patient, shadow, or a file.")
@shared_options
@click.pass_obj
def judge(context: Context, pack_name: str | None) -> None:
    """What the pack makes of single utterances: one line of text in, one line of JSON out.

    Lines are judged independently of each other. `strike` = counts toward the person tracks under this pack.

    \b
    Example:
      echo "you useless idiot" | firmline judge --pack standard
    """
    from ivr.judge import judge_line, load_pack

    pack = load_pack(pack_name or context.config().policy.pack)
    for line in io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace"):
        emit(judge_line(line.rstrip("\r\n"), pack))


@cli.command()
@Wavs
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file, with utterances and times.")
@click.option("--realtime", is_flag=True, help="Feed at the speed of speech, print as a live call would.")
@shared_options
@click.pass_obj
def transcribe(context: Context, wavs: tuple[Path, ...], as_json: bool, realtime: bool) -> None:
    """Recordings to text, with the ears of a live call. Stereo: left then right.

    \b
    Example:
      firmline transcribe call.wav --json
    """
    from ivr.transcription import transcribe_files

    config = context.config()
    set_logging(config)
    failed = False
    for result in transcribe_files(config, wavs, realtime=realtime):
        if isinstance(result, WavError):
            click.echo(f"firmline: {result}", err=True)
            failed = True
        elif as_json:
            emit(result)
        else:
            click.echo(result["text"])
    if failed:
        raise SystemExit(1)


@cli.command()
@Wavs
@click.option("--pack", "pack_name", metavar="NAME|FILE", help="standard, strict, patient, shadow, or a file.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of text.")
@click.option("--plot", metavar="OUT", type=click.Path(path_type=Path), help="Timeline as .png or .html (one WAV).")
@shared_options
@click.pass_obj
def replay(context: Context, wavs: tuple[Path, ...], pack_name: str | None, as_json: bool, plot: Path | None) -> None:
    """What Firmline would have done on a recording: the very same pipeline, faster than real time.

    Mono = the caller; stereo = caller left, agent right. Times are simulated: decoding takes 250 ms, prompts play out,
    the PBX obeys.

    \b
    Example:
      firmline replay call.wav --pack patient --plot call.html
    """
    from ivr.replaying import replay_file, replay_text
    from ivr.timeline import check_plot_path, draw

    config = context.config()
    set_logging(config)
    if plot is not None:
        if len(wavs) != 1:
            raise click.UsageError("--plot takes one WAV at a time")
        check_plot_path(plot)
    failed = False
    for wav in wavs:
        rows: list[dict[str, Any]] = []
        try:
            for row in replay_file(config, wav, pack_name):
                rows.append(row)
                if as_json:
                    emit({"file": str(wav), **row} if len(wavs) > 1 else row)
                else:
                    click.echo(replay_text(row))
        except WavError as exc:
            click.echo(f"firmline: {exc}", err=True)
            failed = True
            continue
        if plot is not None:
            draw(rows, plot, title=wav.name)
            click.echo(f"timeline written to {plot}", err=True)
    if failed:
        raise SystemExit(1)


@cli.command()
@click.option(
    "--labels", required=True, type=click.Path(path_type=Path), metavar="CSV", help="text,label or file,label."
)
@click.option("--packs", "first", required=True, metavar="NAME|FILE", help="The first pack; the others follow it.")
@click.argument("others", nargs=-1, metavar="[NAME|FILE]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
@click.option("--plot", metavar="OUT", type=click.Path(path_type=Path), help="Trade-off curve as .png or .html.")
@shared_options
@click.pass_obj
def tune(context: Context, labels: Path, first: str, others: tuple[str, ...], as_json: bool, plot: Path | None) -> None:
    """What packs would have done on labelled words or recordings: precision, recall, false warnings and endings.

    The CSV has the columns text,label (or file,label for WAVs beside it), and `call` where lines belong to one call.
    label: 1 = an attack on the listener, 0 = none. Endings need calls of several lines. Lists the calls in which the
    packs differ, with their evidence; --plot draws what other values of meaning.strike would trade.

    \b
    Example:
      firmline tune --labels calls.csv --packs standard patient --plot tune.html
    """
    from ivr.timeline import check_plot_path
    from ivr.tuneplot import draw_comparison, figures
    from ivr.tuning import compare, load_labels, steps_of

    config = context.config()
    set_logging(config)
    if plot is not None:
        check_plot_path(plot)
    rows, packs = load_labels(labels), list(dict.fromkeys((first, *others)))
    with click.progressbar(length=steps_of(rows, len(packs)), label="calls", file=sys.stderr) as bar:
        found = compare(rows, packs, config, lambda: bar.update(1))
    if as_json:
        emit(found.as_json())
    else:
        table({"rows": figures(found)}, as_json=False)
        for each in found.differ:
            click.echo(f"\n{each['call']}  [{'abusive' if each['abusive'] else 'civil'}]")
            for name in packs:
                click.echo(f"  {name}: {each[name]['did']}  {' | '.join(each[name]['why'])}".rstrip())
        click.echo(f"\n{len(found.differ)} calls differ")
    if plot is not None:
        draw_comparison(found, plot, title=labels.name)
        click.echo(f"curve written to {plot}", err=True)


@cli.group()
def prompts() -> None:
    """What callers hear: list the prompts, or render your own texts."""


@prompts.command("list")
@shared_options
@click.pass_obj
def prompts_list(context: Context) -> None:
    """Every prompt that would be used: name, length, text.

    \b
    Example:
      firmline prompts list
    """
    from ivr.prompts import describe_catalogue, load_catalogue

    directory = context.config().prompts.directory
    for row in describe_catalogue(load_catalogue(Path(directory) if directory else None)):
        click.echo(f"{row.name:<18} {row.duration_ms / 1000:4.1f} s  {row.text}")


@prompts.command("render")
@click.argument("out", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option("--voice", type=click.Path(path_type=Path), help="A Piper voice (.onnx).  [default: the shipped voice]")
@shared_options
@click.pass_obj
def prompts_render(context: Context, out: Path, voice: Path | None) -> None:
    """Render the texts of FOLDER/catalogue.yaml (without one: the shipped texts) to WAV files in FOLDER.

    {agent}, {company} and {followup} are filled in from the `prompts` settings. What is up to date is left alone. Needs
    `pip install 'firmline[tts]'`; never runs during a call. Set prompts.directory to FOLDER afterwards.

    \b
    Example:
      firmline prompts render /etc/firmline/prompts
    """
    from ivr.prompt_render import render_prompts, texts_of

    settings = context.config().prompts
    written = render_prompts(
        texts_of(out),
        out,
        voice=voice,
        agent=settings.agent,
        company=settings.company,
        followup=settings.followup,
        progress=lambda line: click.echo(line, err=True),
    )
    click.echo(f"{len(written)} files written; to use them, set prompts.directory: {out}")
