"""Files that are replaced whole, folders that are locked, and failures told in a sentence."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from undistill.errors import GO_ON, Busy, RunError

TEMPORARY = ".part"
QUERY_LOG = re.compile(r"answers(-.+)?\.(parquet|refused\.json)")
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
            replace(Path(temporary), path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def replace(source: Path, target: Path) -> None:
    """`os.replace`; on Windows, which refuses while another process has `target` open, tried for a second."""
    for pause in (0.02, 0.1, 0.3, 0.6):
        try:
            source.replace(target)
        except PermissionError:
            if os.name != "nt":
                raise
            time.sleep(pause)
        else:
            return
    source.replace(target)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written below `folder`. Only for whoever holds its lock."""
    with writing(folder):
        for path in folder.rglob(f".*{TEMPORARY}"):
            path.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` for indented JSON; not-a-number and infinities are refused."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parsed JSON; RunError names a file that is missing or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def cache_root() -> Path:
    """`$UNDISTILL_CACHE`, or `undistill` in the user's cache folder (`~/.cache` or `$XDG_CACHE_HOME` on Linux)."""
    named = os.environ.get("UNDISTILL_CACHE")
    return Path(named) if named is not None else platformdirs.user_cache_path("undistill", appauthor=False)


@contextlib.contextmanager
def hold(lock: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `lock`, which this makes. The system lets go when a process dies.

    Args:
        lock: a file of its own, never one with content.
        wait: until it is free. Without waiting a lock that is held raises Busy.
    """
    held = filelock.FileLock(lock, mode=0o644, thread_local=False, poll_interval=0.02)
    with writing(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(blocking=wait)
        except filelock.Timeout:
            raise Busy(f"{lock} is held by another process") from None
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait until this process alone works on the file `path`, and hold it."""
    with hold(path.with_name(f".{path.name}.lock")):
        yield


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; Busy (a UsageError) if another one holds it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(folder / ".lock", wait=False))
        except Busy:
            raise Busy(f"{folder} is in use by another process; wait for it or choose another folder") from None
        yield
