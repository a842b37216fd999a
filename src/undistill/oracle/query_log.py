"""Answers that were given, by the content of the question: an answer that was paid for is never bought twice.

One Parquet file: `image` (hex, the first 128 bits of SHA-256 over the uint8 C × H × W pixels of the question) and `answer` (the
class for labels, else a float for each class); kind, number of classes and class names in the file's metadata. A log that a
deployed model left is read, too: `Answers.read`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from undistill.data.decode import Shape, decode
from undistill.data.image_set import ImageSet, hash_of
from undistill.errors import RunError, UsageError
from undistill.files import exclusive, read_json, write_bytes, write_json
from undistill.oracle.black_box import BlackBox
from undistill.threat_model import Access

SUFFIXES = (".parquet", ".csv")
SCHEMA = 1
HEX = re.compile("[0-9a-f]{32}")
KEY = b"undistill"


@dataclass
class Answers:
    """What was answered: one value for each hash, all of one kind."""

    kind: Access
    num_classes: int
    class_names: tuple[str, ...] | None = None
    values: dict[str, Any] = field(default_factory=dict)
    victim: str | None = None

    def write(self, path: Path) -> None:
        """Replace the file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        label = self.kind is Access.LABEL
        kind = pa.int64() if label else pa.list_(pa.float32(), self.num_classes)
        rows = [int(value) if label else np.asarray(value, np.float32) for value in self.values.values()]
        about = {
            "schema": SCHEMA,
            "kind": self.kind.label,
            "num_classes": self.num_classes,
            "class_names": self.class_names and list(self.class_names),
            "victim": self.victim,
        }
        table = pa.table({"image": pa.array(list(self.values), pa.string()), "answer": pa.array(rows, kind)})
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({KEY: json.dumps(about).encode()}), buffer)
        write_bytes(path, buffer.getvalue())

    @classmethod
    def read(
        cls, path: Path, *, kind: Access | None = None, num_classes: int | None = None, images: ImageSet | None = None
    ) -> Answers:
        """The answers of a file: Parquet, or CSV with a header.

        `image` is a hash, or the path of an image file from the folder of this file; of several rows about one image the last
        counts. What was answered is in `answer`, in `label` (a class number or name), or in one column of scores a class.

        Args:
            path: the file.
            kind: what the answers are, for a file that does not say.
            num_classes: how many classes there are, for labels in a file that does not say.
            images: some of those that it is about: image files are read in their form, and classes have their names.

        Raises:
            UsageError: no such file, other columns, or an undeclared kind.
            RunError: a damaged file, or answers that are not what they are declared to be.
        """
        import pyarrow as pa

        if not path.is_file():
            raise UsageError(f"there are no answers at {path}")
        try:
            table = _table(path)
            about = json.loads((table.schema.metadata or {}).get(KEY, b"{}"))
            said, label = _said(path, table, () if images is None else images.class_names)
            hashes = table["image"].to_pylist()
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
            if isinstance(error, UsageError):
                raise
            form = "CSV" if path.suffix == ".csv" else "Parquet"
            raise RunError(f"{path} is damaged or no {form} file: {_sentence(error)}") from error
        about = about if isinstance(about, dict) else {}
        if label:
            about = {"kind": Access.LABEL.label} | about
        if images is not None and not all(isinstance(value, str) and HEX.fullmatch(value) for value in hashes):
            hashes = _files(path, hashes, images)
        if num_classes is not None and len(said) and not isinstance(said[0], list):
            about = {"num_classes": num_classes} | about
        return cls._checked(path, about, kind, hashes, said)

    @classmethod
    def _checked(
        cls, path: Path, about: dict[str, Any], kind: Access | None, hashes: list[Any], said: list[Any]
    ) -> Answers:
        stated = Access.parse(str(about["kind"])) if "kind" in about else None
        chosen = stated if kind is None else kind
        if chosen is None:
            raise UsageError(f"{path} does not say what its answers are; declare it with --outputs")
        if not hashes or any(not isinstance(value, str) or len(value) != 32 for value in hashes):
            raise RunError(f"{path} holds no answers under 32 hex digits each")
        try:
            label = chosen is Access.LABEL if stated is None else stated is Access.LABEL  # half a class is none
            array = np.asarray(said).astype(np.int64, casting="safe") if label else np.asarray(said, np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise RunError(
                f"{path} holds answers that are no {(stated or chosen).label}: {_sentence(error)}"
            ) from error
        classes = about.get("num_classes")
        if not isinstance(classes, int) or not 2 <= classes <= 1_000_000:
            classes = int(array.max(initial=1)) + 1 if array.ndim == 1 else array.shape[-1]
        if classes < 2:
            raise RunError(f"{path} holds {chosen.label} for {classes} classes")
        names = about.get("class_names")
        names = tuple(str(name) for name in names) if isinstance(names, list) and len(names) == classes else None
        boxes = {each: BlackBox(lambda _: array, each, classes, str(path)) for each in {chosen, stated or chosen}}
        if stated not in (None, chosen) and (label or chosen is Access.LABEL or _is(boxes[stated], array)):
            raise UsageError(f"{path} says that it holds {stated.label}, not {chosen.label}")
        try:
            boxes[chosen].checked(array, len(hashes))
        except RunError as error:
            raise RunError(f"{error}; if it is the log of a function that was mended since, move it away") from error
        victim = about.get("victim")
        values = dict(zip(hashes, array, strict=True))
        return cls(chosen, classes, names, values, victim if isinstance(victim, str) else None)


def _is(box: BlackBox, values: NDArray[Any]) -> bool:
    """Whether numbers are what a black box was declared to answer with."""
    try:
        box.checked(values, len(values))
    except RunError:
        return False
    return True


class Ledger:
    """A black box's predict function that remembers: asks `ask` only about what is not in `answers`, and writes what it learns.

    `path` None keeps it in memory; `ask` None is a closed victim, which cannot be asked any more. `asked` counts the questions
    that it answered now, `lost` those of them, and of requests without a response, that are not kept.
    """

    def __init__(self, answers: Answers, ask: BlackBox | None, path: Path | None) -> None:
        self.answers, self.ask, self.path = answers, ask, path
        self.asked = self.lost = 0
        self._own: tuple[int, int, int] | None = None

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """The answers to these questions, old or new."""
        hashes = hashes_of(pixels)
        new = self._new(hashes)
        if new and self.ask is None:
            raise UsageError(f"{len(new)} of {len(hashes)} images have no answer among those given")
        while new:
            with contextlib.nullcontext() if self.path is None else exclusive(self.path):
                self._catch_up()
                self._ask(pixels, hashes, self._new(hashes))
            new = self._new(hashes)
        return np.stack([self.answers.values[key] for key in hashes])

    def _new(self, hashes: list[str]) -> list[int]:
        """Rows of questions without an answer, each question once."""
        return list({key: row for row, key in enumerate(hashes) if key not in self.answers.values}.values())

    def _catch_up(self) -> None:
        """Take over what other processes wrote; UsageError where the file holds another victim's answers."""
        if self.path is None or not self.path.is_file() or self._stamp() == self._own:
            return
        kept = Answers.read(self.path, kind=self.answers.kind)
        same_victim(kept, self.answers.victim, self.path)
        self.answers.values |= kept.values

    def _stamp(self) -> tuple[int, int, int]:
        """What tells the file from the one that another process wrote in its place."""
        assert self.path is not None
        about = self.path.stat()
        return about.st_ino, about.st_mtime_ns, about.st_size

    def _ask(self, pixels: NDArray[np.uint8], hashes: list[str], rows: list[int]) -> None:
        if not rows:
            return
        assert self.ask is not None
        rows = rows[: self.ask.batch]
        self._may(len(rows))
        with undisturbed():
            self._keep([hashes[row] for row in rows], self._paid(pixels[rows]))

    def again(self, pixels: NDArray[np.uint8]) -> Any:
        """The response to these questions now, whatever it was before; it is not kept."""
        with contextlib.nullcontext() if self.path is None else exclusive(self.path):
            self._catch_up()
            self._may(len(pixels))
            return self._paid(pixels)

    def _may(self, count: int) -> None:
        """Wait for a rate limit; RunError where the limit of all queries would be exceeded."""
        assert self.ask is not None
        limit, before = self.ask.limit, self._spent()
        if limit is not None and before + count > limit:
            raise RunError(
                f"{count} more images exceed the limit of {limit} that {self.ask.name} may be queried about; {before} were"
            )
        if limit is not None and self.path is not None:  # before they are asked: a process may end in between
            write_json(self._count, {"images": before + count})
        if self.ask.rate is not None:
            time.sleep(count / self.ask.rate)

    @property
    def _count(self) -> Path:
        """The file that counts what a limited victim was asked in all, whatever came of it."""
        assert self.path is not None
        return self.path.with_suffix(".spent.json")

    def _spent(self) -> int:
        """How many images it was queried about, by the log and all processes before."""
        known = len(self.answers.values) + self.lost
        if self.path is None or not self._count.is_file():
            return known
        told = read_json(self._count)
        count = told.get("images") if isinstance(told, dict) else None
        return max(known, count) if isinstance(count, int) else known

    def _paid(self, pixels: NDArray[np.uint8]) -> Any:
        """The response of the victim, which counts whether it comes or not."""
        assert self.ask is not None
        self.lost += len(pixels)
        said = self.ask.response(pixels)
        self.asked += len(pixels)
        return said

    def _keep(self, new: list[str], said: Any) -> None:
        """Keep the response about the questions of these hashes."""
        assert self.ask is not None
        try:
            values = self.ask.shaped(said, len(new))
        except RunError as error:
            raise self._refused(new, said, error) from error
        finite = np.isfinite(values.reshape(len(new), -1)).all(axis=1)  # NaN is no response
        self.answers.values |= {key: value for key, value, whole in zip(new, values, finite, strict=True) if whole}
        self.lost -= int(finite.sum())
        if self.path is not None and self.answers.values:
            self.answers.write(self.path)
            self._own = self._stamp()
        self.ask.sound(values)

    def _refused(self, hashes: list[str], said: Any, error: RunError) -> RunError:
        """The error about a response of another form, which is kept all the same: it was paid for."""
        if self.path is None:
            return error
        path = self.path.with_suffix(".refused.json")
        before = read_json(path) if path.is_file() else []
        try:
            content = json.dumps(said, default=lambda part: part.tolist() if hasattr(part, "tolist") else repr(part))
        except (TypeError, ValueError):  # keys that are no text, circles
            content = json.dumps(repr(said))
        response = json.loads(content, parse_constant=str)
        write_json(path, [*(before if isinstance(before, list) else []), {"image": hashes, "response": response}])
        return RunError(f"{error}; the response about {len(hashes)} images is kept in {path}")

    def digest(self, pixels: NDArray[np.uint8]) -> str:
        """SHA-256 over the answers to these questions, 16 hex digits: what a victim without weights can be told apart by."""
        return hashlib.sha256(self(pixels).tobytes()).hexdigest()[:16]

    def knows(self, pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of these questions it can answer: all, unless it is closed."""
        return self.holds(pixels) if self.ask is None else np.ones(len(pixels), bool)

    def holds(self, pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of these questions were answered before."""
        return np.array([key in self.answers.values for key in hashes_of(pixels)], bool)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let a request end and its response be kept before a signal ends this process; a second signal does at once."""
    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)

    def later(number: int, _: object) -> None:
        came.append(number)
        if len(came) > 1:
            restore()
            signal.raise_signal(number)

    for number, handler in before.items():
        if handler not in (None, signal.SIG_IGN):
            signal.signal(number, later)
    try:
        yield
    finally:
        restore()
        if len(came) == 1:
            signal.raise_signal(came[0])


def _table(path: Path) -> Any:
    """A Parquet or CSV file as an Arrow table."""
    import pyarrow as pa
    import pyarrow.csv as pv
    import pyarrow.parquet as pq

    if path.suffix != ".csv":
        return pq.read_table(path)
    texts = dict.fromkeys(("image", "label", "answer"), pa.string())  # a class called 001 is not 1
    return pv.read_csv(path, convert_options=pv.ConvertOptions(column_types=texts))


def _said(path: Path, table: Any, names: Sequence[str]) -> tuple[list[Any], bool]:
    """(what was answered, whether it is sure that those are labels); class names as numbers."""
    columns = table.column_names
    scores = bool(names) and set(names) <= set(columns)
    column = next((name for name in ("answer", "label") if name in columns), None)
    if "image" not in columns or (column is None and not scores):
        wanted = "image, and answer, label or a column of scores for each class"
        missing = next((name for name in names if name not in columns), None)
        lacking = f"; none is called {missing!r}" if missing is not None and set(names) & set(columns) else ""
        raise UsageError(f"{path} has columns {', '.join(columns)}{lacking}; a log has {wanted}")
    if scores:
        return np.stack([np.asarray(table[name], np.float32) for name in names], axis=1).tolist(), False
    said = table[column].to_pylist()
    if not (said and names and all(isinstance(value, str) for value in said)):
        return said, column == "label"
    if all(value in names for value in said):
        return [names.index(value) for value in said], True
    if all(value.isascii() and value.isdigit() for value in said):
        return [int(value) for value in said], True
    strange = next(value for value in said if value not in names)
    raise UsageError(f"{path} answers with a class {strange[:40]!r} that the data do not have")


def _files(path: Path, files: Sequence[Any], images: ImageSet) -> list[str]:
    """The addresses of image files, read as these images were."""
    about = path.stat()
    shape = (images.channels, images.stored_size, images.image_size)
    return list(_hashed(path, about.st_mtime_ns, about.st_size, tuple(map(str, files)), *shape))


@lru_cache(maxsize=4)
def _hashed(
    path: Path, written: int, size: int, files: tuple[str, ...], channels: int, stored: int, side: int
) -> tuple[str, ...]:
    """`_files`; `written` and `size` tell a log from its successor."""
    start, shape = (stored - side) // 2, Shape(channels, stored)
    found = []
    for name in files:
        if HEX.fullmatch(name):
            found.append(name)
            continue
        try:
            file = path.parent / Path(name).expanduser()
            found_there = file.is_file()
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"{path} names an image {name[:60]!r}, which is no path: {_sentence(error)[:80]}"
            ) from error
        if not found_there:
            raise UsageError(f"{path} names an image {name[:120]}, and there is none at {file}")
        pixels = decode({"path": str(file)}, f"{name[:120]} of {path}", shape)
        found += hashes_of(pixels[None, :, start : start + side, start : start + side])
    return tuple(found)


def same_victim(answers: Answers, victim: str | None, path: Path) -> None:
    """UsageError where a file holds the answers of another victim."""
    if None not in (answers.victim, victim) and answers.victim != victim:
        raise UsageError(f"{path} holds answers of another victim; use another --query-log for this one")


def write_answers(
    path: str | Path,
    images: Any,
    answers: Any,
    *,
    kind: str,
    num_classes: int,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write answers that a victim gave, for a later attack on it without the victim.

    Args:
        path: the file to write.
        images: uint8 N × C × H × W pixels, just as they were asked about.
        answers: N × C logits or probabilities, N classes, or (classes, probabilities) of the top k.
        kind: `logits`, `probs`, `topk` or `label`.
        num_classes: C.
        class_names: in the order of the answers, where known.
    """
    pixels = np.ascontiguousarray(images, np.uint8)
    box = BlackBox(lambda _: answers, Access.parse(kind), num_classes, str(path))
    names = None if class_names is None else tuple(class_names)
    said = box.checked(answers, len(pixels))
    Answers(box.kind, num_classes, names, dict(zip(hashes_of(pixels), said, strict=True))).write(Path(path))


def hashes_of(pixels: NDArray[np.uint8]) -> list[str]:
    """The address of each question."""
    return [hash_of(np.ascontiguousarray(image).tobytes()).decode() for image in pixels]


def _sentence(error: BaseException) -> str:
    return (" ".join(str(error).split()).rstrip(".") or type(error).__name__)[:200]
