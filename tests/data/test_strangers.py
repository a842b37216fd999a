"""Whatever lies in a folder, a setting or the cache: a result, or one sentence."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data.made import class_folders, parquet, rows
from undistill.data import cache, load
from undistill.data.load import DataSettings
from undistill.errors import RunError, UndistillError, UsageError

Changes = list[tuple[float, int]]
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8)
alone = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def changed(content: bytes, changes: Changes) -> bytes:
    new = bytearray(content)
    for place, value in changes:
        new[math.floor(place * len(new))] = value
    return bytes(new)


# -- settings -----------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted({*DataSettings.model_fields, "sizes"})), JSON, max_size=4))
def test_settings_of_any_value_are_read_or_refused(values: dict[str, Any]) -> None:
    try:
        made = DataSettings.model_validate(values)
    except (UsageError, ValidationError):
        return
    assert DataSettings.model_validate(made.model_dump(mode="json")) == made


@alone
@given(st.dictionaries(st.sampled_from(sorted(DataSettings.model_fields.keys() - {"name"})), JSON, max_size=2))
def test_loading_with_any_value_is_a_result_or_a_sentence(values: dict[str, Any]) -> None:
    try:
        load("digits", **values)
    except UndistillError as error:
        said = str(error)
        assert "\n" not in said


# -- folders ------------------------------------------------------------------------------------------------------------


@alone
@given(CHANGES, st.floats(0, 1))
def test_a_mutated_table_is_a_result_or_a_sentence(tmp_path: Path, changes: Changes, keep: float) -> None:
    folder = tmp_path / "hub"
    if not folder.exists():
        parquet(folder, train=rows(12), test=rows(6, 50))
    file = next(folder.rglob("train*.parquet"))
    whole = file.read_bytes()
    cut = changed(whole, changes)
    try:
        for content in (cut, cut[: math.floor(keep * len(cut))]):
            file.write_bytes(content)
            try:
                load(folder, skip_corrupt=True)
            except UndistillError as error:
                said = str(error)
                assert "\n" not in said
    finally:
        file.write_bytes(whole)


# -- the cache ----------------------------------------------------------------------------------------------------------


@alone
@given(
    st.sampled_from(["meta.json", "train.images.npy", "train.labels.npy", "train.hashes.npy"]), CHANGES, st.floats(0, 1)
)
def test_a_mutated_cache_is_read_or_decoded_again(tmp_path: Path, name: str, changes: Changes, keep: float) -> None:
    folder = tmp_path / "photos"
    if not folder.exists():
        class_folders(folder, each=10)
    load(folder)
    entry = next(next((tmp_path / "cache" / "images").glob("*/meta.json")).parent.glob(name))
    whole = entry.read_bytes()
    front = changed(whole[:160], changes) + whole[160:]  # where NumPy's header is
    for content in (front, front[: math.floor(keep * len(front))]):
        entry.write_bytes(content)
        kept = cache.read(entry.parent.name)
        assert kept is None or len(kept.splits["train"]) == 30
    entry.write_bytes(whole)


@alone
@given(CHANGES, st.floats(0, 1))
def test_a_mutated_survey_is_a_result_or_a_sentence(tmp_path: Path, changes: Changes, keep: float) -> None:
    folder = tmp_path / "photos"
    if not folder.exists():
        class_folders(folder, each=10)
    load(folder)
    notes = {note: note.read_bytes() for note in (tmp_path / "cache" / "notes").iterdir()}
    for note, whole in notes.items():
        note.write_bytes(changed(whole, changes)[: math.floor(keep * len(whole)) + 1])
    try:
        load(folder)
    except UndistillError as error:
        said = str(error)
        assert "\n" not in said
    for note, whole in notes.items():
        note.write_bytes(whole)


DIE = """
import os, sys
from undistill.data import cache, folder_dataset as reading, load
inner = reading.decode
def decode(image, name, shape):
    if "dog/5" in name:
        print("half", flush=True)
        sys.stdin.read()
    return inner(image, name, shape)
reading.decode = decode
load(sys.argv[1])
"""


@pytest.mark.e2e
def test_what_a_killed_process_left_is_swept_but_not_what_a_live_one_holds(tmp_path: Path, root: Path) -> None:
    folder = class_folders(tmp_path / "photos", each=10)
    child = subprocess.Popen(
        [sys.executable, "-c", DIE, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        (left,) = (path for path in (root / "images").glob(".*") if path.is_dir())
        load(folder, size=4)
        assert left.exists()
        child.kill()
    assert left.exists()
    load(folder, size=5)
    assert not left.exists()


def _limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))


@pytest.mark.e2e
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, root: Path) -> None:
    folder = class_folders(tmp_path / "photos", each=10)
    code = (
        "import sys\nfrom undistill.data import load\n"
        "try:\n load(sys.argv[1])\nexcept Exception as e: print(type(e).__name__, e)"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    full = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        preexec_fn=_limit,
        env=plain,
        check=False,
    )
    assert full.stdout.startswith("RunError no space left to write ")
    assert not [path for path in (root / "images").iterdir() if path.is_dir()]


def test_a_cache_that_may_not_be_written_is_one_sentence(tmp_path: Path, root: Path) -> None:
    root.write_text("a file")
    with pytest.raises(RunError, match=r"^cannot write [^\n]+$"):
        load(class_folders(tmp_path / "photos", each=10))


@pytest.mark.e2e
def test_decoding_takes_no_second_copy(tmp_path: Path) -> None:
    """Peak memory grows by less than what is decoded."""
    folder = class_folders(tmp_path / "photos", each=4, size=(16, 16))
    code = (
        "import sys, resource\nfrom undistill.data import load\nfrom undistill.data.sources import Folder\n"
        "from undistill.data.decode import Wanted\nfrom pathlib import Path\nload(sys.argv[1], size=8)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "Folder().read(Path(sys.argv[1]), Wanted(size=1024), lambda *_: None)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    began = time.monotonic()
    grown = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert int(grown.stdout) * 1024 < 12 * 3 * 1024**2 / 2, time.monotonic() - began
