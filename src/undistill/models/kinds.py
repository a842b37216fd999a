"""What a file that should hold weights holds instead, told by its first bytes; of a zip, its index is read."""

from __future__ import annotations

import zipfile
from pathlib import Path

HEAD = 4096
"""Bytes that are looked at."""
FUNCTION = "put the model behind a function, FILE.py:predict, and declare its outputs with --outputs (docs/models.md)"
UNPACK = "unpack it, and name the file of weights inside"
DOWNLOAD = "download it again, from the link of the file itself"
MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a git-lfs pointer, not the weights: run `git lfs pull` in its repository", ""),
    (0, b"/annex/objects", "a git-annex pointer, not the weights: run `git annex get` in its repository", ""),
    (0, b"\x89HDF\r\n", "an HDF5 file, as Keras and TensorFlow write", FUNCTION),
    (0, b"GGUF", "a GGUF file", FUNCTION),
    (4, b"TFL3", "a TensorFlow Lite model", FUNCTION),
    (0, b"\x93NUMPY", "a NumPy array", "save a state dict of named tensors"),
    (0, b"PAR1", "a Parquet file", "give it as MODEL where it holds outputs of a model"),
    (0, b"\x1f\x8b", "a gzip archive", UNPACK),
    (0, b"BZh", "a bzip2 archive", UNPACK),
    (0, b"\xfd7zXZ", "an xz archive", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (0, b"7z\xbc\xaf", "a 7z archive", UNPACK),
    (0, b"Rar!", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"\x89PNG", "a PNG image", "name the file of weights"),
    (0, b"\xff\xd8\xff", "a JPEG image", "name the file of weights"),
    (0, b"%PDF", "a PDF document", "name the file of weights"),
)
"""(offset, bytes there, what such a file is, what to do)."""
PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml")


def described(path: Path) -> str | None:
    """What a file is that is not weights, and what to do, as the end of a sentence; None where its beginning does not tell.

    Files of `torch.save` and safetensors give None, damaged ones too.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "is empty (0 bytes): copy or download it again"
    for offset, magic, what, way in MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return f"is {what}" + (f": {way}" if way else "")
    if head[:2] == b"PK":
        return _zip(path)
    if _onnx(path, head):
        return "is an ONNX model, which needs no import: attack and audit take it with --outputs (docs/models.md)"
    return _text(head)


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as safetensors do: eight bytes of a length, then a JSON object."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= path.stat().st_size


def _zip(path: Path) -> str | None:
    """A zip archive that is no file of `torch.save`; None for one that is, and for one whose index is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None
    parts = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in parts:
        return f"is a TorchScript archive, which holds code: save the network's state_dict() alone, or {FUNCTION}"
    if "data.pkl" in parts:
        return None
    if "model.weights.h5" in parts:
        return f"is a Keras model: {FUNCTION}"
    if names and all(name.endswith(".npy") for name in names):
        return "is an archive of NumPy arrays: save a state dict of named tensors"
    inside = f" with {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}" if names else ", an empty one"
    return f"is a zip archive{inside}, not a file of torch.save: {UNPACK}"


def _onnx(path: Path, head: bytes) -> bool:
    """ONNX files are Protocol Buffers without a magic number: the version of the format comes first, soon followed by names."""
    if head[:2] in (b"PK", b"\x80\x02") or is_safetensors(path):
        return False
    named = path.suffix.lower() == ".onnx"
    return named or (
        head[:1] == b"\x08" and 0 < head[1] < 64 and any(mark in head for mark in (b"pytorch", b"onnx", b"graph"))
    )


def _text(head: bytes) -> str | None:
    """Text where weights should be: a page, or what a server says in place of a file."""
    bare = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if bare[: len(max(PAGES, key=len))].lower().startswith(PAGES):
        return f"is a web page, not weights: {DOWNLOAD}"
    try:
        text = bare[:200].decode()
    except UnicodeDecodeError:
        return None
    if len(text) < 8 or not text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return None
    kind = "JSON" if text.startswith(("{", "[")) else "text"
    return f"is {kind}, not weights (it begins with {' '.join(text.split())[:40]!r}): {DOWNLOAD}"
