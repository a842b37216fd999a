"""Files are replaced whole, folders are locked, failures are sentences."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undistill import files
from undistill.errors import Busy, RunError, UsageError
from undistill.files import locked, read_json, sweep, write_bytes, write_json, write_text, writing


def fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_bytes(tmp_path / "deep" / "file", b"old")
    write_bytes(tmp_path / "deep" / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "deep").iterdir()] == [("file", b"new")]


def test_others_may_read_a_written_file(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "é")
    assert (tmp_path / "file").read_bytes() == "é".encode()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise fail(errno.ENOSPC)

    write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"no space left to write .*file; free some, the same command goes on"):
        write_bytes(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write .*file/below: "):
        write_bytes(tmp_path / "file" / "below", b"")


def test_other_errors_than_the_systems_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path):
        raise ZeroDivisionError


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    for name in ("kept", ".kept", ".file.abc.part", "deep/.file.abc.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [".kept", "kept"]


def test_a_process_killed_while_writing_leaves_what_sweep_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: os._exit(9))
    if (child := os.fork()) == 0:
        write_bytes(tmp_path / "file", b"new")
    os.waitpid(child, 0)
    assert [path.name for path in tmp_path.iterdir()] != []
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_json_is_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"α": [1, 2.5, None]})
    assert read_json(tmp_path / "file") == {"α": [1, 2.5, None]}


def test_json_is_written_for_people_too(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"α": 1})
    assert (tmp_path / "file").read_text() == '{\n  "α": 1\n}\n'


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_never_holds_what_is_no_number(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": ', b"\x80\x04\xff"])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(RunError, match="file is damaged: "):
        read_json(tmp_path / "file")


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read .*file: No such file"):
        read_json(tmp_path / "file")


def test_a_held_folder_is_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "run"),
        pytest.raises(UsageError, match="run is in use by another process"),
        locked(tmp_path / "run"),
    ):
        pytest.fail("held twice")


def test_who_waits_for_a_folder_can_tell_that_from_wrong_usage(tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(Busy), locked(tmp_path / "run"):
        pytest.fail("held twice")
    assert issubclass(Busy, UsageError)
    assert Busy.exit_code == 2


def test_a_folder_is_let_go_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass


def test_a_folder_is_let_go_when_its_process_dies(tmp_path: Path) -> None:
    if (child := os.fork()) == 0:
        with locked(tmp_path):
            os._exit(9)
    os.waitpid(child, 0)
    with locked(tmp_path):
        pass


def test_another_process_is_kept_out(tmp_path: Path) -> None:
    code = "import sys, pathlib; from undistill.files import locked\nwith locked(pathlib.Path(sys.argv[1])): pass"
    with locked(tmp_path):
        ended = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "is in use by another process" in ended.stderr


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write .*file/run: "), locked(tmp_path / "file" / "run"):
        pytest.fail("locked")


def test_json_refuses_objects_before_it_touches_the_file(tmp_path: Path) -> None:
    write_json(tmp_path / "file", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "file", object())
    assert json.loads((tmp_path / "file").read_text()) == 1


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists),
    )
)
def test_a_checked_object_is_read_back_and_any_change_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    path = tmp_path_factory.mktemp("checked") / "file.json"
    content.pop(files.CHECK, None)
    write_json(path, files.checked(content))
    assert read_json(path) == content
    write_json(path, {**json.loads(path.read_text()), "more": 1})
    with pytest.raises(RunError, match=r"does not fit its checksum; if you changed it yourself, remove its 'check'"):
        read_json(path)
