"""Files that try to run code, to leave their folder or to use up the machine. Each is made here, none is kept."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ATTACK = ("attack", "normal", "--data", "digits", "-s", "training.epochs=1", "-q", "-o", "out")
TRAIN = ("train", "--model", "cnn", "--size", "16", "-s", "training.epochs=1", "-q", "-o", "out", "--data")
IMPORT = ("import", "evil.pt", "--model", "cnn", "--mean", "none", "-q", "-o", "out")


class Evil:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def pickled_checkpoint(home: Path, mark: Path) -> None:
    """A checkpoint of torch.save whose pickle makes a folder."""
    with zipfile.ZipFile(home / "evil.pt", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"weight": Evil(mark)}, protocol=2))
        file.writestr("archive/version", "3")


def bare_pickle(home: Path, mark: Path) -> None:
    """A pickle alone."""
    (home / "evil.pt").write_bytes(pickle.dumps(Evil(mark)))


def pickled_weights(home: Path, mark: Path) -> None:
    """A pickle called model.safetensors."""
    (home / "normal" / "model" / "model.safetensors").write_bytes(pickle.dumps(Evil(mark)))


def header(home: Path, length: int, text: bytes = b"") -> None:
    """A safetensors file that states a header of this length."""
    (home / "normal" / "model" / "model.safetensors").write_bytes(struct.pack("<Q", length) + text)


def huge_header(home: Path, _: Path) -> None:
    """A header of 2⁶³ bytes."""
    header(home, 1 << 63)


def huge_tensor(home: Path, _: Path) -> None:
    """A tensor of 2⁶⁰ numbers without a byte behind it."""
    text = json.dumps({"w": {"dtype": "F32", "shape": [1 << 30, 1 << 30], "data_offsets": [0, 8]}}).encode()
    header(home, len(text), text + b"\0" * 8)


def overlapping(home: Path, _: Path) -> None:
    """Two tensors of the same bytes."""
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    text = json.dumps({"a": one, "b": one}).encode()
    header(home, len(text), text + b"\0" * 8)


def huge_network(home: Path, _: Path) -> None:
    """A config.json that describes a network too wide for any machine."""
    path = home / "normal" / "model" / "config.json"
    values = json.loads(path.read_text())
    values["network"]["width"] = 1e6
    path.write_text(json.dumps(values))


def foreign_network(home: Path, mark: Path) -> None:
    """A config.json that names code."""
    (home / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\ndef net(**_): ...\n")
    path = home / "normal" / "model" / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"network": {**values["network"], "name": "evil:net"}}))


def evil_yaml(home: Path, mark: Path) -> None:
    """A run's config.yaml with a Python object."""
    (home / "normal" / "config.yaml").write_text(f"schema: 1\nrecipe: !!python/object/apply:os.mkdir [{str(mark)!r}]\n")


def evil_plan(home: Path, mark: Path) -> None:
    """A plan whose model is code."""
    (home / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\ndef predict(images): ...\n")
    path = home / "audit" / "audit.json"
    values = json.loads(path.read_text())
    values.pop("check", None)
    values["subjects"][0] |= {"model": "evil.py:predict", "id": ""}
    path.write_text(json.dumps(values))


def plan_that_leaves(home: Path, _: Path) -> None:
    """A plan with a key that is a path."""
    path = home / "audit" / "audit.json"
    values = json.loads(path.read_text())
    values.pop("check", None)
    values["cells"][0]["key"] = "../../faults-escaped"
    path.write_text(json.dumps(values))


def pickled_table(home: Path, mark: Path) -> None:
    """A numpy file of objects as responses."""
    array = np.array([Evil(mark)], dtype=object)
    np.save(home / "answers.npy", array, allow_pickle=True)


def images(home: Path, add: Callable[[str, bytes], None], extra: list[tuple[str, bytes]]) -> None:
    """Some true images of two classes, then others."""
    from PIL import Image

    for kind in ("a", "b"):
        for number in range(30):
            made = io.BytesIO()
            Image.fromarray(np.full((16, 16, 3), 7 * number + ord(kind) % 7, np.uint8)).save(made, "PNG")
            add(f"data/{kind}/{number}.png", made.getvalue())
    for name, content in extra:
        add(name, content)


def zip_that_leaves(home: Path, _: Path) -> None:
    """A zip with paths that lead out of it."""
    with zipfile.ZipFile(home / "data.zip", "w") as file:
        images(home, file.writestr, [("../../faults-escaped.png", b"x"), ("/tmp/faults-escaped-too", b"x")])


def tar_that_leaves(home: Path, _: Path) -> None:
    """A tar with a link that leads out of it, and a file through that."""
    with tarfile.open(home / "data.tar", "w") as file:

        def add(name: str, content: bytes) -> None:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            file.addfile(about, io.BytesIO(content))

        images(home, add, [])
        link = tarfile.TarInfo("data/out")
        link.type, link.linkname = tarfile.SYMTYPE, str(home.parent)
        file.addfile(link)
        add("data/out/faults-escaped", b"x")


def zip_bomb(home: Path, _: Path) -> None:
    """A zip of 10 MB with an image of 10 GB."""
    with zipfile.ZipFile(home / "data.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        images(home, file.writestr, [])
        with file.open("data/a/bomb.png", "w", force_zip64=True) as bomb:
            for _gigabyte in range(10_000):
                bomb.write(bytes(1 << 20))


def image_bomb(home: Path, _: Path) -> None:
    """A PNG of 60,000 × 60,000 pixels in some megabytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    row = zlib.compressobj(9)
    data = b"".join(row.compress(bytes(1 + 60_000 * 3)) for _ in range(3000)) + row.flush()
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb += chunk(b"IDAT", data) + chunk(b"IEND", b"")

    def add(name: str, content: bytes) -> None:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    images(home, add, [("data/a/bomb.png", bomb)])


def deep_json(home: Path, _: Path) -> None:
    """A result.json of a hundred thousand brackets."""
    (home / "normal" / "result.json").write_text("[" * 100_000)


FILES: tuple[tuple[str, Callable[[Path, Path], None], tuple[str, ...]], ...] = (
    ("a checkpoint that is a pickle", pickled_checkpoint, IMPORT),
    ("a bare pickle", bare_pickle, IMPORT),
    ("a pickle in place of weights", pickled_weights, ATTACK),
    ("safetensors with a header of 2⁶³ bytes", huge_header, ATTACK),
    ("safetensors with a tensor of 2⁶⁰ numbers", huge_tensor, ATTACK),
    ("safetensors with overlapping tensors", overlapping, ATTACK),
    ("a network of 10⁶ times the width", huge_network, ATTACK),
    ("a network that is code", foreign_network, ATTACK),
    ("YAML with a Python object", evil_yaml, ATTACK),
    ("a plan whose model is code", evil_plan, ("run", "-q", "audit")),
    ("a plan with a key that is a path", plan_that_leaves, ("run", "-q", "audit")),
    (
        "responses that are pickled objects",
        pickled_table,
        ("attack", "answers.npy", "--data", "digits", "-q", "-o", "out"),
    ),
    ("a zip with paths out of it", zip_that_leaves, (*TRAIN, "data.zip")),
    ("a tar with a link out of it", tar_that_leaves, (*TRAIN, "data.tar")),
    ("a zip bomb of 10 GB", zip_bomb, (*TRAIN, "data.zip")),
    ("an image of 60,000 × 60,000 pixels", image_bomb, (*TRAIN, "data")),
    ("JSON of a hundred thousand brackets", deep_json, ATTACK),
)
