"""Where models come from, and what is said when they do not."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ivr import models
from ivr.errors import ModelError
from ivr.models import PACKAGES, ModelPackage, file_sha256, resolve_model


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's caches, nor asks the real hub."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


def own_package(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, sha256: str) -> None:
    """A package on the import path that should hold a model by the name ``own.en``."""
    (folder / "own_speech_model" / "model").mkdir(parents=True)
    (folder / "own_speech_model" / "__init__.py").write_text("")
    if content is not None:
        (folder / "own_speech_model" / "model" / "model.bin").write_bytes(content)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(PACKAGES, "own.en", ModelPackage("own-speech-model==1.0", "own_speech_model", "model", sha256))


def test_known_name_comes_from_its_package_with_its_hash_checked() -> None:
    """The pinned package holds the pinned file."""
    found = resolve_model("tiny.en", offline=True)
    assert (found.name, found.source, found.sha256) == ("tiny.en", "package", PACKAGES["tiny.en"].sha256)
    assert (Path(found.path) / "model.bin").is_file()


def test_folder_of_ones_own_comes_first(tmp_path: Path) -> None:
    """A path is taken as it is, unhashed."""
    for name in ("model.bin", "config.json"):
        (tmp_path / name).write_bytes(b"x")
    found = resolve_model(str(tmp_path))
    assert (found.source, found.path, found.sha256) == ("path", str(tmp_path.resolve()), None)


def test_folder_without_model_says_what_is_missing(tmp_path: Path) -> None:
    """It names the files, and what they should be."""
    with pytest.raises(ModelError, match=r"no model\.bin and no config\.json.*CTranslate2"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/no/such/model"])
def test_missing_path_is_an_error_at_once(name: str) -> None:
    """What can only be a path is never looked for elsewhere."""
    with pytest.raises(ModelError, match="there is no such folder"):
        resolve_model(name)


def test_empty_name_is_an_error_with_an_example() -> None:
    """Configuration with nothing in it gets a hint."""
    with pytest.raises(ModelError, match=r"tiny\.en"):
        resolve_model("  ")


def test_package_with_another_file_is_refused_with_both_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed model never decides what a caller is told."""
    own_package(tmp_path, monkeypatch, b"not the model", "0" * 64)
    with pytest.raises(ModelError, match="is not the file we know: sha256 is [0-9a-f]{64}, expected 0{64}.*force-rein"):
        resolve_model("own.en", offline=True)


def test_package_without_its_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is named as one."""
    own_package(tmp_path, monkeypatch, None, "0" * 64)
    with pytest.raises(ModelError, match="installed without its file"):
        resolve_model("own.en", offline=True)


def test_package_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything tried is told, and the fix is a line to paste."""
    monkeypatch.setitem(PACKAGES, "own.en", ModelPackage("own-speech-model==1.0", "no_such_module_here", "m", "0" * 64))
    with pytest.raises(ModelError) as caught:
        resolve_model("own.en", offline=True)
    text = str(caught.value)
    assert "package own-speech-model==1.0 is not installed" in text
    assert "local cache does not have it" in text and "(offline)" in text
    assert text.endswith("To fix it: pip install own-speech-model==1.0")


def test_hub_that_cannot_be_reached_is_told_in_its_clients_words() -> None:
    """The real client is asked, against an address where nobody listens."""
    with pytest.raises(ModelError, match="the hub could not give it"):
        resolve_model("small.en", hub_timeout_s=30)


def test_hub_that_never_answers_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent peer cannot hold the start of the service."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ModelError, match=r"the hub did not answer in 2 s"):
            resolve_model("small.en", hub_timeout_s=2)


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client needs to fetch two small files."""

    files = {"model.bin": b"weights", "config.json": b"{}"}
    commit = "a" * 40

    def do_GET(self) -> None:
        name = self.path.split("?")[0].rsplit("/", 1)[-1]
        if "/tree/" in self.path:
            tree = [{"type": "file", "path": each, "size": 1, "oid": "b" * 40} for each in self.files]
            self._answer(json.dumps(tree).encode(), "application/json")
        elif self.path.startswith("/api/"):
            siblings = [{"rfilename": each} for each in self.files]
            listing = {"id": "org/name", "sha": self.commit, "siblings": siblings}
            self._answer(json.dumps(listing).encode(), "application/json")
        elif name in self.files:
            self._answer(self.files[name], "application/octet-stream")
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_hub_model_is_downloaded_once_and_found_offline_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client downloads from a hub on loopback; the second time the network is not needed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        found = resolve_model("org/name", hub_timeout_s=60)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert found.source == "hub"
    assert (Path(found.path) / "model.bin").read_bytes() == b"weights"
    assert resolve_model("org/name", offline=True).path == found.path


def test_hash_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look reads no file; a changed one is hashed again."""
    model = tmp_path / "model.bin"
    model.write_bytes(b"one")
    first = file_sha256(model)
    with monkeypatch.context() as without_hashing:
        without_hashing.setattr(models.hashlib, "file_digest", None)
        assert file_sha256(model) == first
    model.write_bytes(b"other")
    assert file_sha256(model) != first


@pytest.mark.parametrize("content", ["", "[]", "{broken", '{"a": 1}'])
def test_damaged_cache_costs_nothing_but_time(tmp_path: Path, content: str) -> None:
    """Whatever is in the cache file, the hash is right."""
    cache = tmp_path / "cache" / "firmline" / "model-hashes.json"
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    model = tmp_path / "model.bin"
    model.write_bytes(b"")
    assert file_sha256(model) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    """A file where the folder should be is not our business."""
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    (tmp_path / "cache").write_text("in the way")
    model = tmp_path / "model.bin"
    model.write_bytes(b"")
    assert file_sha256(model).startswith("e3b0c442")
