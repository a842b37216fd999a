"""Atomic writes, locks, the cache folder, and errors of the file system as one sentence."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from undistill.errors import GO_ON, Busy, RunError

TEMPORARY = ".part"
QUERY_LOG = re.compile(r"answers(-.+)?\.(parquet|refused\.json|spent\.json)")
"""The names of query logs: responses that were paid for outlive the run that asked for them."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write at `path` into a RunError of one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunError(f"no space left to write {path}; free some, {GO_ON}") from error
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def write_bytes(path: Path, content: bytes, *, lasting: bool = True) -> None:
    """Replace `path` atomically: readers see the old file or the new one, and a full disk leaves the old one.

    `lasting` waits until a power cut cannot undo it; needless for what is checked when read and can be made again.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                if lasting:
                    os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            _replace(Path(temporary), path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _replace(source: Path, target: Path) -> None:
    """`os.replace`. Windows refuses while another process has `target` open, so there it is tried for a second."""
    for pause in (0.02, 0.1, 0.3, 0.6) if os.name == "nt" else ():
        try:
            source.replace(target)
        except PermissionError:
            time.sleep(pause)
        else:
            return
    source.replace(target)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written below `folder`. Only for the process that holds its lock."""
    with writing(folder):
        for path in folder.rglob(f".*{TEMPORARY}"):
            path.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` for indented JSON; not-a-number and infinities are refused."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parsed JSON, without its checksum if it has one; RunError names a file that is missing, is no JSON or does not fit it."""
    try:
        return unchecked(json.loads(path.read_text(encoding="utf-8")), path)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


CHECK = "check"
"""Where an object keeps its checksum."""


def checked(content: dict[str, Any]) -> dict[str, Any]:
    """The same, with a checksum of the rest: a bit that flips on a disk would be another number, without a word."""
    return {**content, CHECK: _checksum(content)}


def unchecked(content: Any, path: Path) -> Any:
    """What was read from `path`, without its checksum if it has one; RunError where that does not fit."""
    if not isinstance(content, dict) or CHECK not in content:
        return content
    rest = {name: value for name, value in content.items() if name != CHECK}
    if content[CHECK] != _checksum(rest):
        raise RunError(
            f"{path} is damaged: it does not fit its checksum; if you changed it yourself, remove its {CHECK!r}"
        )
    return rest


def _checksum(content: dict[str, Any]) -> str:
    plain = json.loads(json.dumps(content))
    return sha256(json.dumps(plain, sort_keys=True).encode())


def sha256(content: bytes) -> str:
    """Its first 16 hex digits."""
    return hashlib.sha256(content).hexdigest()[:16]


def cache_root() -> Path:
    """`$UNDISTILL_CACHE`, or `undistill` in the user's cache folder (`~/.cache` or `$XDG_CACHE_HOME` on Linux)."""
    named = os.environ.get("UNDISTILL_CACHE")
    return Path(named) if named else user_cache_path("undistill", appauthor=False)


@contextlib.contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the file `path`, once no other process does; whether it is held, which it always is with `wait`.

    The system lets go when a process dies.
    """
    lock = _acquired(path.with_name(f".{path.name}.lock"), seconds=-1 if wait else 0)
    with contextlib.nullcontext() if lock is None else lock:
        yield lock is not None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; Busy (a UsageError) if another one holds it. The system lets go when a process dies."""
    lock = _acquired(folder / ".lock", seconds=0)
    if lock is None:
        raise Busy(f"{folder} is in use by another process; wait for it or choose another folder")
    with lock:
        yield


def _acquired(file: Path, seconds: float) -> Any:
    """A lock that is held until its block ends; None if another process still holds it after so long (−1: never)."""
    with writing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, poll_interval=0.02)
        try:
            return lock.acquire(timeout=seconds)
        except Timeout:
            return None
