"""`doctor` and `cache`: what is there is said, and nothing is removed that this tool did not write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from undistill.cli import machine
from undistill.cli.machine import size
from undistill.cli.main import main
from undistill.data import cache
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.errors import UsageError
from undistill.models import build
from undistill.oracle.inference import Frozen
from undistill.oracle.logit_cache import Held, LogitCache

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """(exit code, stdout) of `undistill …` with a cache of its own."""
    monkeypatch.setenv("UNDISTILL_CACHE", str(tmp_path / "cache"))

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return int(ended.value.code or 0), capsys.readouterr().out

    return run


KEY = "0123456789abcdef01234567"


def fill(images: ImageSet) -> Path:
    """One set of decoded images and one entry of the logit cache; the folder of the latter."""
    cache.read_or_make(KEY, "a test", lambda store: store.add("train", images))
    entry = LogitCache().open(
        Frozen(build("cnn", 4, 3, 8, width=0.125, seed=0)), ImageBatches(images, 8, seed=0, role="test"), 4, passes=1
    )
    assert entry is not None
    entry.write(0, Held(images.index_N, torch.zeros(len(images), 4)))
    return entry.folder


def test_an_empty_cache_is_empty(call: Call) -> None:
    code, out = call("cache", "--json")
    assert code == 0
    found = json.loads(out)
    assert {(name, kept["bytes"], kept["entries"]) for name, kept in found.items()} == {
        ("images", 0, 0),
        ("logits", 0, 0),
    }


def test_sizes_are_those_of_the_files(call: Call, images: ImageSet) -> None:
    fill(images)
    found = json.loads(call("cache", "--json")[1])
    folder = Path(found["images"]["folder"]) / KEY
    assert found["images"]["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert (found["images"]["entries"], found["logits"]["entries"]) == (1, 1)
    assert found["logits"]["bytes"] > 0


def test_pruning_removes_both_and_leaves_what_others_wrote(call: Call, images: ImageSet, tmp_path: Path) -> None:
    entry = fill(images)
    root = tmp_path / "cache"
    (root / "images" / KEY / "thesis.tex").write_text("x")
    (root / "images" / "photos").mkdir()
    (root / "images" / "photos" / "meta.json").write_text("{}")
    (entry / "thesis.tex").write_text("x")
    (entry.parent / "other").mkdir()
    (entry.parent / "other" / "about.json").write_text("{}")
    code, out = call("cache", "--prune", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["images"]["entries"], found["logits"]["entries"]) == (0, 0)
    assert found["removed_bytes"]["images"] > 0
    left = {path.name for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left == {"thesis.tex", "meta.json", "about.json"}
    assert cache.read(KEY) is None


def test_one_kind_is_pruned_alone(call: Call, images: ImageSet) -> None:
    fill(images)
    found = json.loads(call("cache", "--prune", "--kind", "images", "--json")[1])
    assert set(found) == {"images", "removed_bytes"}
    assert json.loads(call("cache", "--json")[1])["logits"]["entries"] == 1
    assert call("cache", "--kind", "photos")[0] == 2


def test_no_path_outside_of_the_cache_is_removed(call: Call, tmp_path: Path) -> None:
    for name in ("../photos", "..", "", "x"):
        with pytest.raises(UsageError):
            cache.remove(name)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (206_400_000, "206.4 MB"), (10**10, "10.0 GB")]
)
def test_sizes_are_read_at_a_glance(count: int, text: str) -> None:
    assert size(count) == text


def test_the_doctor_says_what_there_is(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SPEED_CHECK", 0.0)
    threads = torch.get_num_threads()
    code, out = call("doctor", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert "OMP_NUM_THREADS" in found["machine"]["threads"]
    assert set(found["caches"]) == {"images", "logits"}
    assert "images/s" in next(iter(found["speed"].values()))
    assert torch.get_num_threads() == threads
    code, out = call("doctor")
    assert code == 0
    for word in ("torch", "bf16", "GPU", "cores"):
        assert word in out


def test_the_doctor_says_what_is_wanting_and_how_to_mend_it(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "_speed", dict)
    monkeypatch.setattr(machine, "ROOM", 0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert json.loads(call("doctor", "--json")[1])["wanting"] == {}
    assert call("doctor")[1].endswith("wanting\n  nothing\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "1000")
    monkeypatch.setattr(machine, "ROOM", 1e18)
    (tmp_path / "nvidia-smi").write_text("")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = json.loads(call("doctor", "--json")[1])["wanting"]
    assert set(found) == {"GPU", "OMP_NUM_THREADS", "disk"}
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNDISTILL_CACHE", str(tmp_path / "file" / "cache"))
    assert "UNDISTILL_CACHE" in json.loads(call("doctor", "--json")[1])["wanting"]["cache folder"]
