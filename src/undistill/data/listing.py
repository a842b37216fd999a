"""The files of a folder, a zip or a tar file: names and kinds. Nothing is decoded, and nothing is unpacked to disk."""

from __future__ import annotations

import contextlib
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from undistill.data.decode import SUFFIXES, sentence, within_limit
from undistill.errors import UsageError

TABLES = frozenset({".parquet", ".arrow"})
ARCHIVES = frozenset({".zip", ".tar"})
"""Archives whose members can be read one by one in any order."""
PACKED = frozenset({".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"})
"""Archives that have to be unpacked first."""
METADATA = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})
SAVED = frozenset({"dataset_dict.json", "state.json"})
"""Files that Hugging Face `datasets` writes or looks for."""
COMPANIONS = frozenset(".csv .tsv .json .jsonl .xml .txt .md .rst .yaml .yml .html .pdf .log .py .ipynb".split())  # noqa: SIM905
"""Kinds of files that accompany images and are never images."""
JUNK = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
    | {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"}
)
"""What operating systems and storage boxes put beside images, in small letters. Hidden files are passed over too."""
PLAIN, BROKEN, REPEATED, SPECIAL = (
    "without a suffix",
    "broken links",
    "links to folders already read",
    "pipes or devices",
)
"""Kinds of what has no suffix to be named by."""
UNREAD = frozenset({BROKEN, REPEATED, SPECIAL})
DEEPEST = 64
"""Folders that may be around a file in an archive."""
SHOWN = 6
"""Kinds of files that are named; further ones are counted together."""

Members = Mapping[str, Callable[[], bytes] | None]
"""Files of an archive → how their bytes are read; None for its folders."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file. `parts` are the names that lead to it from the top; `kind` is empty for an image, else what the file is.

    `path` is the file itself, or the archive whose `member` it is.
    """

    parts: tuple[str, ...]
    kind: str
    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """For sentences."""
        return text_of(str(self.path) if self.member is None else f"{self.path}/{self.member}")


@dataclass(frozen=True)
class Listing:
    """All visible files and all visible folders, files sorted by their names."""

    entries: tuple[Entry, ...]
    folders: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, place: Path) -> Listing:
        """The files below a folder, or one file; UsageError as `list_folder`."""
        return cls((Entry((place.name,), kind_of(place.name), place),)) if place.is_file() else list_folder(place)

    @property
    def files(self) -> list[Path]:
        """The files that are there to be opened, sorted."""
        return sorted(entry.path for entry in self.entries if entry.kind not in UNREAD)

    def without_content(self) -> list[str]:
        """Folders without any file here or below, and what is neither a file nor a folder: broken links and the like."""
        homes = {entry.parts[:-1] for entry in self.entries}
        used = {home[:depth] for home in homes for depth in range(1, len(home) + 1)}
        empty = sorted("/".join(parts) for parts in self.folders if parts not in used)
        return empty + ["/".join(entry.parts) for entry in self.entries if entry.kind in UNREAD]


def list_folder(folder: Path) -> Listing:
    """The files below a folder. A link to a folder is followed once, and never upwards: loops end.

    Raises:
        UsageError: the folder is missing, empty or may not be read.
    """
    if not folder.is_dir():
        raise UsageError(f"the data folder {folder} does not exist")
    entries: list[Entry] = []
    folders: list[tuple[str, ...]] = []
    above = {os.path.realpath(parent) for parent in (folder.resolve(), *folder.resolve().parents)}
    seen = set(above)

    def refuse(error: OSError) -> None:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error

    for place, below, names in os.walk(folder, followlinks=True, onerror=refuse):
        here = Path(place)
        parts = tuple(map(text_of, here.relative_to(folder).parts))
        kept = []
        for name in sorted(filter(visible, below)):
            real = os.path.realpath(here / name)
            if real not in seen:
                seen.add(real)
                kept.append(name)
                folders.append((*parts, text_of(name)))
            elif real not in above and not os.path.realpath(here).startswith(real + os.sep):
                entries.append(Entry((*parts, text_of(name), ""), REPEATED, here / name))
        below[:] = kept
        for name in filter(visible, names):
            path = here / name
            kind = kind_of(name) if path.is_file() else SPECIAL if path.exists() else BROKEN
            entries.append(Entry((*parts, text_of(name)), kind, path))
    if len(set(folders)) < len(folders):
        same = Counter(folders).most_common(1)[0][0]
        raise UsageError(f"{folder} has several folders {'/'.join(same)!r} whose names are no UTF-8; rename them")
    if not entries:
        raise UsageError(f"the data folder {folder} is empty")
    return Listing(tuple(sorted(entries, key=lambda entry: entry.parts)), tuple(folders))


def visible(name: str) -> bool:
    """Whether a name is neither hidden nor one that systems make."""
    return not name.startswith(".") and name.lower() not in JUNK


def kind_of(name: str) -> str:
    """Empty for an image by its suffix, else the suffix in small letters."""
    suffix = PurePosixPath(name.strip()).suffix.lower()
    return "" if suffix in SUFFIXES else suffix or PLAIN


def text_of(name: str) -> str:
    """A file's name as text that can be written: bytes that are no UTF-8 become question marks."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def counted(kinds: Counter[str]) -> str:
    """`12 .heic, 3 without a suffix`, the most frequent first."""
    ranked = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ranked[SHOWN:])
    return ", ".join(
        [f"{count:,} {kind}" for kind, count in ranked[:SHOWN]] + ([f"{rest:,} of other kinds"] if rest else [])
    )


def listed(names: list[str], most: int = 5) -> str:
    """`a, b and 7 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def way_out(kinds: Iterable[str]) -> str:
    """What makes images of files of these kinds."""
    kinds = set(kinds)
    ways = ["convert them to JPEG or PNG"] if any(kind.startswith(".") for kind in kinds) else []
    ways += ["add .jpg or .png to the names of images"] if PLAIN in kinds else []
    ways += ["put back what the links lead to"] if BROKEN in kinds else []
    return " and ".join(ways) or "put its images there"


def no_images(folder: Path, listing: Listing) -> UsageError:
    """What to say of files among which there is no image and no table."""
    for entry in listing.entries:
        if entry.kind in PACKED:
            return UsageError(
                f"{entry.name} has to be unpacked first; only zip, plain tar and parquet files are read as they are"
            )
    kinds = Counter(entry.kind for entry in listing.entries)
    if kinds.keys() & (TABLES | ARCHIVES):
        return UsageError(f"{folder} holds {counted(kinds)} in an archive; unpack it into a folder")
    if kinds.keys() <= COMPANIONS:
        return UsageError(
            f"{folder} holds no images but {counted(kinds) or 'nothing'}; put each image into a folder named as its class"
        )
    return UsageError(f"{folder} holds no image that can be read ({counted(kinds)}): {way_out(kinds)}")


# -- archives -----------------------------------------------------------------------------------------------------------


def list_archives(files: Iterable[Path], top: Path) -> Listing:
    """The members of zip and tar files. An archive below the folder `top` is a folder named as the file without its suffix.

    Raises:
        UsageError: an archive that is damaged or encrypted.
    """
    entries: list[Entry] = []
    folders: list[tuple[str, ...]] = []
    for file in files:
        own = () if file == top else tuple(map(text_of, file.relative_to(top).with_suffix("").parts))
        with opened_archive(file) as members:
            for member, read in members.items():
                parts = _parts(member)
                if parts and read is None:
                    folders.append((*own, *parts))
                elif parts:
                    entries.append(Entry((*own, *parts), kind_of(parts[-1]), file, member))
    return Listing(tuple(sorted(entries, key=lambda entry: entry.parts)), tuple(folders))


def _parts(member: str) -> tuple[str, ...]:
    """The names that lead to a member; nothing for one that is hidden. They are labels only: nothing is written there."""
    parts = [part for part in member.replace("\\", "/").split("/") if part not in ("", ".")]
    if len(parts) > DEEPEST:
        raise UsageError(f"an archive with files more than {DEEPEST} folders deep is not read; unpack it into a folder")
    return tuple(map(text_of, parts)) if all(map(visible, parts)) else ()


@contextlib.contextmanager
def opened_archive(file: Path) -> Iterator[Members]:
    """The members of a zip or tar file; UsageError where it is damaged or encrypted."""
    with contextlib.ExitStack() as stack:
        try:
            if file.suffix.lower() == ".zip":
                packed = stack.enter_context(zipfile.ZipFile(file))
                if any(info.flag_bits & 1 for info in packed.infolist()):
                    raise ValueError("it is encrypted")  # noqa: TRY301
                members: dict[str, Callable[[], bytes] | None] = {
                    info.filename: None if info.is_dir() else partial(_content, packed.open, info, info.file_size)
                    for info in packed.infolist()
                }
            else:
                tar = stack.enter_context(tarfile.open(file, "r:"))
                members = {
                    info.name: None if info.isdir() else partial(_content, tar.extractfile, info, info.size)
                    for info in tar.getmembers()
                }
        except Exception as error:  # readers of damaged archives raise nearly anything
            raise UsageError(f"cannot read {file}: {sentence(error)}; unpack it into a folder") from error
        yield members


def _content(opener: Callable[[Any], Any], info: Any, size: int) -> bytes:
    """A member's bytes; ValueError for one that is no file, or is longer than an image may be."""
    stream = opener(info)
    if stream is None:
        raise ValueError("it is no regular file")
    with stream:
        return within_limit(size, stream.read)
