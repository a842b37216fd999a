"""A folder to decoded splits: looked over, decoded once into the cache, memory-mapped after that."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from undistill.data import cache
from undistill.data.decode import CorruptError, Shape, decode
from undistill.data.folders import are_class_folders, files_below, open_folders
from undistill.data.images import ImageSet
from undistill.data.opening import Opened, Progress, Wanted, open_table
from undistill.data.survey import Labels, Survey, check_rest, labelled, layout, leave_out, resolve, survey
from undistill.errors import RunError


@dataclass(frozen=True)
class Found:
    """What a source gives: `splits` train and, where it has them, test and val.

    `corrupt` images were left out; `settings` are how the images were read, to read them so again.
    """

    splits: dict[str, ImageSet]
    corrupt: int = 0
    settings: dict[str, Any] = field(default_factory=dict)


def read_folder(folder: Path, wanted: Wanted, progress: Progress) -> Found:
    """The splits of any folder of images; from the cache when no file has changed.

    Raises:
        UsageError: a folder, column, split, label or image that cannot be used (named), or more than 4 GB decoded.
        RunError: the cache cannot be written.
    """
    folder = folder.expanduser()
    files = files_below(folder)
    plain = are_class_folders(files)

    def opened() -> Opened:
        return open_folders(folder, files, wanted) if plain else open_table(folder, wanted)

    asked: dict[str, Any] = {"columns": [wanted.image_column, wanted.label_column], "splits": wanted.splits}
    asked |= {"layout": layout(files, folder)} if plain else {}
    note = cache.key_of(files, asked | {"survey": 1, "skip": wanted.skip_corrupt})
    found, labels = _kept_survey(note), None
    at_hand = None
    if found is None:
        at_hand = opened()
        found, labels = survey(at_hand, folder, wanted, progress)
        named = asked | {
            "columns": found.columns
        }  # a run writes down what was found, and asks for just that when it goes on
        for name in (note, cache.key_of(files, named | {"survey": 1, "skip": wanted.skip_corrupt})):
            cache.write_note(name, found.model_dump_json().encode())
    shape, size = resolve(found, wanted, str(folder))
    key = cache.key_of(
        files, asked | {"columns": found.columns, "splits": found.splits} | _unusual(found, shape, wanted)
    )
    kept = cache.read_kept(key)
    if kept is None:
        at_hand = at_hand or opened()
        labels = labels or survey(at_hand, folder, wanted, progress)[1]
        _decode(key, at_hand, labels, found, shape, folder, wanted, progress)
        kept = cache.read_kept(key)
        if kept is None:
            raise RunError(
                f"the decoded images in {cache.cache_root()} were damaged at once; free some space and try again"
            )
    settings = {
        "image_column": found.columns[0],
        "label_column": found.columns[1],
        "size": size,
        "stored": None if shape.stored == size else shape.stored,
        "channels": shape.channels,
        "skip_corrupt": wanted.skip_corrupt,
    }
    splits = {name: images.seen_by(size) if size != shape.stored else images for name, images in kept.splits.items()}
    return Found(splits, kept.corrupt, settings)


def _kept_survey(note: str) -> Survey | None:
    content = cache.read_note(note)
    if content is None:
        return None
    try:
        return Survey.model_validate_json(content)
    except ValidationError:
        return None


def _unusual(found: Survey, shape: Shape, wanted: Wanted) -> dict[str, Any]:
    """What of the reading is not as the images are by themselves, to tell decoded sets of one folder apart."""
    usual = Shape(1 if found.grey else 3, found.side or 0)
    unusual: dict[str, Any] = {} if shape == usual else {"shape": [shape.channels, shape.stored]}
    return unusual | ({"skip_corrupt": True} if wanted.skip_corrupt else {})


def _decode(
    key: str,
    opened: Opened,
    labels: Labels,
    found: Survey,
    shape: Shape,
    folder: Path,
    wanted: Wanted,
    progress: Progress,
) -> None:
    each = (shape.channels, shape.stored, shape.stored)
    with cache.storing(key, str(folder)) as store:
        store.meta["corrupt"] = 0
        for ours, theirs in opened.splits.items():
            corrupt = 0
            with store.split(ours, labels.classes, each, found.counts[ours]) as part:
                for row in labelled(opened.rows(theirs), f"{folder} {theirs}"):
                    try:
                        pixels = decode(row.image, row.name, shape)
                    except CorruptError as error:
                        corrupt += 1
                        leave_out(error, corrupt, wanted, progress)
                        continue
                    part.add(pixels, labels(row))
                    if len(part.labels) % 1000 == 0:
                        progress(f"decoding {theirs}", len(part.labels), found.counts[ours])
                check_rest(len(part.labels), corrupt, f"{folder} {theirs}")
            progress(f"decoding {theirs}", len(part.labels), len(part.labels))
            store.meta["corrupt"] += corrupt
