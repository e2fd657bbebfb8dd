"""``firmline hotkey``: the desktop companion."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import click

from ivr.cli import Context, cli, shared_options

_COMBINATION = "Combination, such as <ctrl>+<alt>+w, or none."


@cli.command()
@click.option("--ext", required=True, help="The agent's extension.")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Where Firmline's API is.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with the agent's token.  [default: the variable FIRMLINE_TOKEN]",
)
@click.option("--ca", type=click.Path(path_type=Path), help="PEM of a certificate authority of your own, for https.")
@click.option("--warn", help=f"{_COMBINATION}  [default: <ctrl>+<shift>+<f9>]")
@click.option("--pardon", help="[default: <ctrl>+<shift>+<f10>]")
@click.option("--transfer", help="[default: <ctrl>+<shift>+<f11>]")
@click.option("--end", help="[default: <ctrl>+<shift>+<f12>]")
@click.option("--minute", help="[default: <ctrl>+<shift>+<f8>]")
@click.option("--sound", type=click.Choice(["auto", "bell", "none"]), default="auto", help="When a key worked or not.")
@click.option("--notify/--no-notify", default=True, help="Desktop notification when keys are off or failed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of a status line.")
@shared_options
@click.pass_obj
def hotkey(
    context: Context,
    ext: str,
    url: str,
    token_file: Path | None,
    ca: Path | None,
    warn: str | None,
    pardon: str | None,
    transfer: str | None,
    end: str | None,
    minute: str | None,
    sound: str,
    notify: bool,
    as_json: bool,
) -> None:
    """Global keys on the agent's desktop: they act in the agent's current call, whatever window is in front.

    Shows in the terminal, and in its title, whether it is armed; connects again by itself; makes a sound when a key
    worked, another when it did not. X11, Windows and macOS (there: allow it under Accessibility); needs
    `pip install 'firmline[hotkey]'`. Wayland keeps keys from programs: bind the curl line of docs/api.md instead.

    \b
    Example:
      (umask 077; firmline token add --role agent --ext 201 > ~/.firmline-token)
      firmline hotkey --ext 201 --url https://firmline.example --token-file ~/.firmline-token
    """
    import re

    from ivr.companion.client import ApiClient
    from ivr.companion.keys import combinations, spoken
    from ivr.companion.run import companion
    from ivr.companion.signs import Signs
    from ivr.tokens import EXTENSION
    from policies.types import Key

    if not re.fullmatch(EXTENSION, ext):
        raise click.BadParameter(f"{ext!r} is no extension", param_hint="--ext")
    wanted = {Key.WARN: warn, Key.PARDON: pardon, Key.TRANSFER: transfer, Key.END: end, Key.MINUTE: minute}
    found = combinations({key: combination for key, combination in wanted.items() if combination})
    token = read_token(token_file)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    ApiClient(url, ext, token, ca).close()  # wrong addresses are told before anything is listened to
    if not as_json:
        click.echo("  ".join(f"{spoken(combination)} {key.value}" for combination, key in found.items()))
    signs = Signs(ext, sound=sound, notify=notify, as_json=as_json)
    try:
        companion(lambda: ApiClient(url, ext, token, ca), found, signs, stop)
    finally:
        signs.close()


def read_token(file: Path | None) -> str:
    """The token out of ``file``, else of the environment; empty where none is needed.

    Raises:
        ConfigError: the file cannot be read, or holds none.
    """
    from ivr.errors import ConfigError

    if file is None:
        return os.environ.get("FIRMLINE_TOKEN", "").strip()
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"--token-file: {file} cannot be read: {exc}") from exc
    if not token or len(token.split()) != 1:
        raise ConfigError(f"--token-file: {file} holds no token; `firmline token add` prints one")
    return token
