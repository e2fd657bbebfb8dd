"""Access tokens: a small file of hashes, written by ``firmline token`` and read by the service as it changes.

A token is 256 random bits, so a single SHA-256 keeps it: nobody can guess their way to one, and the slow hashes
(bcrypt, scrypt, argon2) exist for secrets that people choose. Slow ones would also stop the loop for some 100 ms at
every request. What was printed once is nowhere kept; who loses a token makes another.

The file is replaced whole (write, fsync, rename) under a lock, so that two commands at once lose nothing and the
service never reads half of it. It is for its owner alone (0600); one that others may write to is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ivr.errors import ConfigError

PREFIX = "firmline_"
"""Lets secret scanners and people recognise one."""
SECRET_BYTES = 32
EXTENSION = r"^[0-9A-Za-z*#+_.-]{1,64}$"

log = structlog.get_logger("firmline.api")


class Role(StrEnum):
    """What a client may see and touch."""

    OPEN = "open"
    """No tokens are defined and only this machine can reach us: everything."""
    AGENT = "agent"
    """The calls of one extension."""
    SUPERVISOR = "supervisor"
    """All calls, keys, incidents."""
    OPS = "ops"
    """That, and metrics, checks and faults of the configuration."""


class Token(BaseModel):
    """One token as kept: everything but the token."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    role: Role
    ext: Annotated[str, Field(pattern=EXTENSION)] | None = None
    name: Annotated[str, Field(max_length=80)] = ""
    created_at: datetime
    expires_at: datetime | None = None

    @model_validator(mode="after")
    def _role_is_whole(self) -> Self:
        if self.role is Role.OPEN:
            raise ValueError("a token is for an agent, a supervisor or ops")
        if self.role is Role.AGENT and self.ext is None:
            raise ValueError("an agent's token needs the agent's extension")
        return self

    def expired(self, now_s: float) -> bool:
        """Whether it is past its time at ``now_s`` (seconds since the epoch)."""
        return self.expires_at is not None and self.expires_at.timestamp() <= now_s


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    tokens: list[Token] = Field(default=[], max_length=10_000)


def hashed(secret: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


class TokenFile:
    """The file itself, for the commands that change it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Token]:
        """Every token, oldest first; none when there is no file.

        Raises:
            ConfigError: it cannot be read, is not a list of tokens, or others may write to it.
        """
        try:
            with open(self.path, encoding="utf-8") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"api.tokens: {self.path} cannot be read: {exc}") from exc
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(f"api.tokens: others may write to {self.path}: run  chmod 600 {self.path}")
        try:
            return _File.model_validate_json(text).tokens
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "file"
            raise ConfigError(f"api.tokens: {self.path}: {where}: {first['msg']}") from exc

    def add(self, role: Role, ext: str | None, name: str, expires_at: datetime | None, now: datetime) -> str:
        """A new token; what is returned is shown once and never again.

        Raises:
            ConfigError: the file cannot be read or written, or the parts do not make a token.
        """
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        try:
            token = Token(
                id=secrets.token_hex(4), sha256=hashed(secret), role=role, ext=ext, name=name,
                created_at=now, expires_at=expires_at,
            )  # fmt: skip
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            where = "".join(f"{part}: " for part in first["loc"])
            raise ConfigError(f"token: {where}{first['msg'].removeprefix('Value error, ')}") from exc
        with self._locked():
            self._write([*self.read(), token])
        return secret

    def remove(self, token_id: str) -> Token:
        """Take a token out, by its id.

        Raises:
            ConfigError: there is none of that id, or the file cannot be read or written.
        """
        with self._locked():
            tokens = self.read()
            found = next((token for token in tokens if token.id == token_id), None)
            if found is None:
                raise ConfigError(f"no token {token_id!r}; `firmline token list` shows the ids")
            self._write([token for token in tokens if token.id != token_id])
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        import fcntl  # the service and its tokens live on POSIX; `firmline hotkey` need not

        lock = self.path.with_name(self.path.name + ".lock")
        try:
            handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise ConfigError(f"api.tokens: cannot write beside {self.path}: {exc.strerror}") from exc
        try:
            self._hand_over(handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _hand_over(self, handle: int) -> None:
        """Root makes tokens for a service that runs as somebody else: it must still be able to read them."""
        if os.geteuid() == 0:
            of = os.stat(self.path if self.path.exists() else self.path.absolute().parent)
            os.fchown(handle, of.st_uid, of.st_gid)

    def _write(self, tokens: Sequence[Token]) -> None:
        text = json.dumps(_File(tokens=list(tokens)).model_dump(mode="json"), indent=1) + "\n"
        new = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.new")
        try:
            handle = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                self._hand_over(handle)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self.path)
        except OSError as exc:
            with suppress(OSError):
                new.unlink()
            raise ConfigError(f"api.tokens: {self.path} cannot be written: {exc.strerror}") from exc


class TokenBook:
    """The tokens in force, for the service: looks at the file at each question and reads it when it is another.

    A file that went missing or broke while we run changes nothing but ``problem``: those who had access keep it, and
    nobody gains any.

    Raises:
        ConfigError: the file is there and cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._file = TokenFile(path)
        self._seen = self._look()
        self._tokens = self._file.read()
        self.problem: str | None = None

    @property
    def empty(self) -> bool:
        """Whether no token is defined, expired ones included: those must not open the door when they lapse."""
        self._refresh()
        return not self._tokens

    def find(self, secret: str, now_s: float) -> Token | None:
        """The token in force whose secret this is. Takes as long whether or not there is one."""
        self._refresh()
        digest, found = hashed(secret), None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return None if found is None or found.expired(now_s) else found

    def _refresh(self) -> None:
        now = self._look()
        if now == self._seen:
            return
        self._seen = now
        try:
            if now is None and self._tokens:
                raise ConfigError(f"api.tokens: {self._file.path} is gone; the tokens read before stay in force")
            self._tokens = self._file.read()
        except ConfigError as exc:
            self.problem = str(exc)
            log.error("tokens cannot be read; those read before stay in force", error=self.problem)
        else:
            self.problem = None
            log.info("tokens read", tokens=len(self._tokens))

    def _look(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self._file.path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


def utc(now_s: float) -> datetime:
    """Seconds since the epoch as a time of the kind that tokens hold."""
    return datetime.fromtimestamp(now_s, UTC)
