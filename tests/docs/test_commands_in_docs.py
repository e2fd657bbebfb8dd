"""Every command in the documentation is run, every settings block is read: what people copy works.

A fenced block marked ``sh`` (or ``console``, where lines behind ``$ `` are the commands) is run by bash in a folder of
its document's own, block after block. Words after ``sh`` say how:

    sh                  must end 0
    sh exit 1           must end 1
    sh live             beside a running service, in its folder; http://127.0.0.1:8080 is that service
    sh no-test REASON   is not run; its syntax is still checked, and the reason is printed

``yaml`` blocks whose keys are those of config.yaml, or that extend a pack, must be valid.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from audio.wavio import write_wav
from ivr.config import Config, parse_config
from ivr.demo.service import ServiceProcess
from ivr.demo.speech import line_pcm
from ivr.judge import load_pack

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "deploy").glob("*/README.md"))]
ELSEWHERE = {"api.md": ROOT / "tests" / "ivr" / "test_api_docs.py"}
"""Documents whose commands need more than a service (a live call, tokens): run, line by line, by a test there."""
FENCE = re.compile(r"^( *)```(\w+)([^\n`]*)\n(.*?)^ *```$", re.S | re.M)
COMMAND_S = 120


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    document: Path
    line: int
    kind: str
    how: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def no_test(self) -> str | None:
        """The reason for not running it, which must be given."""
        return self.how.removeprefix("no-test").strip() if self.how.startswith("no-test") else None

    @property
    def script(self) -> str:
        """What bash gets."""
        if self.kind != "console":
            return self.text
        return "\n".join(line[2:] for line in self.text.splitlines() if line.startswith("$ "))


def blocks(*kinds: str) -> list[Block]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for match in FENCE.finditer(text):
            if match[2] in kinds:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(document, line, match[2], match[3].strip(), textwrap.dedent(match[4])))
    return found


COMMANDS = [b for b in blocks("sh", "console", "bash", "shell") if b.document.name not in ELSEWHERE]
RUN = [block for block in COMMANDS if block.no_test is None]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """``PATH`` with a ``firmline`` that is this working copy's."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "firmline"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ivr "$@"\n')
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServiceProcess]:
    """A service for the blocks marked ``live``."""
    async with ServiceProcess(tmp_path_factory.mktemp("live")) as running:
        yield running


def bash(block: Block, cwd: Path, path: str, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    try:
        return subprocess.run(
            ["bash", "-euo", "pipefail", *options, "-c", script],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"{block.where}: still running after {COMMAND_S} s")


def sandbox(folder: Path) -> None:
    """What a reader has at hand: settings, an environment to activate, the recording that `make demo` leaves."""
    (folder / "config.yaml").write_text("line: {local_port: 0}\napi: {port: 0}\n")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    recordings = folder / "firmline-demo" / "abusive"
    recordings.mkdir(parents=True)
    (recordings / "caller_said.wav").write_bytes(write_wav(line_pcm("pat_insult"), 8_000))


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("document", sorted({block.document for block in RUN}), ids=lambda p: p.name)
async def test_commands_of_the_document_work(
    document: Path, path: str, service: ServiceProcess, tmp_path: Path
) -> None:
    """Each block ends as it says; an answer of the API is no error, unless nobody is on a call."""
    sandbox(tmp_path)
    for block in (each for each in RUN if each.document == document):
        how = re.fullmatch(r"(live)?\s*(?:exit (\d))?", block.how)
        assert how, f"{block.where}: what does `{block.how}` mean? See the head of this file"
        cwd = service.folder if how[1] else tmp_path
        script = block.script.replace("http://127.0.0.1:8080", service.ready["api"])
        assert how[1] or script == block.script, f"{block.where}: mark it `sh live`: it asks a running service"
        done = bash(block, cwd, path, script)
        told = f"{block.where} ended {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
        assert done.returncode == int(how[2] or 0), told
        assert '"error"' not in done.stdout or "is not on a call" in done.stdout, told


@pytest.mark.parametrize("block", [b for b in COMMANDS if b.no_test is not None], ids=lambda b: b.where)
def test_commands_not_run_are_shell_and_have_a_reason(block: Block, path: str, tmp_path: Path) -> None:
    """Syntax is checked all the same; why it is not run is printed with the skipped tests."""
    assert block.no_test, f"{block.where}: say why it is not run: ```sh no-test REASON"
    done = bash(block, tmp_path, path, block.script, "-n")
    assert done.returncode == 0, f"{block.where}: {done.stderr}"
    pytest.skip(block.no_test)


def test_settings_and_packs_in_the_docs_are_valid(tmp_path: Path) -> None:
    """Blocks of config.yaml parse as such; packs load."""
    seen = 0
    for block in blocks("yaml"):
        data = yaml.safe_load(block.text)
        if isinstance(data, dict) and set(data) <= set(Config.model_fields):
            parse_config(block.text, block.where)
            seen += 1
        elif isinstance(data, dict) and "extends" in data:
            (tmp_path / "pack.yaml").write_text(block.text)
            load_pack(tmp_path / "pack.yaml", meaning=False)
            seen += 1
    assert seen >= 4


def test_documents_run_elsewhere_are_run_there() -> None:
    """The test that is said to run them reads them."""
    for document in DOCUMENTS:
        if (test := ELSEWHERE.get(document.name)) is not None:
            assert document.name in test.read_text()


def test_links_between_documents_lead_somewhere() -> None:
    """Files and headings that the documents point to are there."""
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", FENCE.sub("", document.read_text())):
            file, _, heading = target.partition("#")
            to = (document.parent / file).resolve() if file else document
            assert to.exists(), f"{document.name} points to {target}"
            if heading and to.suffix == ".md":
                titles = re.findall(r"^#+ (.+)$", to.read_text(), re.M)
                slugs = {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
                assert heading in slugs, f"{document.name} points to {target}"


def test_every_document_can_be_reached_from_the_readme() -> None:
    """No page is lost."""
    readme = (ROOT / "README.md").read_text()
    linked = {name for each in DOCUMENTS for name in re.findall(r"(?:docs/)?([\w-]+\.md)", each.read_text())}
    for document in DOCUMENTS[1:]:
        assert document.name in linked, f"nothing points to {document.name}"
    for name in ("quick-start.md", "operators-guide.md", "tuning.md"):
        assert f"docs/{name}" in readme
