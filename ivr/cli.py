"""The ``firmline`` command: one thin function a subcommand; everything they do lives elsewhere.

Exit codes: 0 ok, 1 failed, 2 usage or bad config (the message names file, line and key).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import ivr
from ivr.config import Config, load_config, parse_config
from ivr.errors import FirmlineError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
LEVELS = click.Choice(["debug", "info", "warning", "error"])


class Context:
    """What every subcommand gets: the config, read on first use so that ``--help`` needs none."""

    def __init__(self, path: str | None, level: str | None) -> None:
        self._path, self._level = path, level

    def config(self) -> Config:
        """``-c FILE``, else ``./config.yaml``, else defaults when there is no such file.

        Raises:
            ConfigError: the file is not valid, or the one named is not there.
        """
        if self._path is None and not Path("config.yaml").exists():
            config = parse_config("", "defaults")
        else:
            config = load_config(Path(self._path or "config.yaml"))
        if self._level is not None:
            config = config.model_copy(update={"log": config.log.model_copy(update={"level": self._level})})
        return config

    @property
    def path(self) -> Path | None:
        """The file that ``config`` reads, absolute; ``None`` for built-in defaults."""
        if self._path is None and not Path("config.yaml").exists():
            return None
        return Path(self._path or "config.yaml").absolute()

    @property
    def source(self) -> str:
        """Where the config came from, for people."""
        if self._path is None and not Path("config.yaml").exists():
            return "built-in defaults (no ./config.yaml)"
        return self._path or "config.yaml"


def shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``-c`` and ``--log-level``, the same on every subcommand."""
    command = click.option(
        "--log-level", type=LEVELS, default=None, help="Overrides log.level.", callback=_keep, expose_value=False
    )(command)
    return click.option(
        "-c",
        "--config",
        metavar="FILE",
        default=None,
        help="Settings to use.  [default: ./config.yaml]",
        callback=_keep,
        expose_value=False,
    )(command)


def _keep(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    context.meta[parameter.name or ""] = value
    if {"config", "log_level"} <= set(context.meta):
        context.obj = Context(context.meta["config"], context.meta["log_level"])
    return value


@click.group(context_settings=CONTEXT)
@click.version_option(ivr.__version__, prog_name="firmline")
def cli() -> None:
    """Keeps the boundary on live phone calls: hears abuse of the person on the line, warns once and politely, follows
    through, and leaves everybody else alone.

    \b
    Start here:
      firmline demo                 two live calls on this machine, no PBX needed
      firmline check                is this config.yaml ready, and what would it use?
      firmline run                  the service
    \b
    Try the judgement:
      echo "you useless idiot" | firmline judge
      firmline replay call.wav      a recording through the same pipeline
    """


def main() -> None:
    """Entry point: every deliberate error becomes one calm message on stderr and its exit code."""
    # Each registers its subcommands; late, so that --version is instant.
    from ivr import bench_commands, commands, doctor_command, pbx_command, report_command, webhook_commands  # noqa: F401

    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except FirmlineError as exc:
        click.echo(f"firmline: {exc}" if exc.exit_code != 2 else str(exc), err=True)
        sys.exit(exc.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
