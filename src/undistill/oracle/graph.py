"""Victims that are ONNX files: what onnxruntime computes of them is all that is known.

Legend: N images, C channels or classes, H height, W width.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from undistill.errors import RunError, UsageError
from undistill.oracle.endpoint import Pixels, Service, completed, numbered
from undistill.threat_model import Access

TYPES = {
    "tensor(float)": "FP32",
    "tensor(float16)": "FP16",
    "tensor(double)": "FP64",
    "tensor(uint8)": "UINT8",
    "tensor(int8)": "INT8",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
}


class Graph:
    """Computes an ONNX file: a function of uint8 N × C × H × W pixels."""

    def __init__(self, service: Service, kind: Access, class_names: tuple[str, ...]) -> None:
        """`kind`: which of several outputs is meant. `class_names`: in the order of the outputs, for labels that are names."""
        self.service, self.kind = service, kind
        self.name = "the model" if service.file is None else service.file.name
        self._numbers = {name: number for number, name in enumerate(class_names)}
        self._pixels: Pixels | None = None

    def __call__(self, pixels: NDArray[np.uint8]) -> Any:
        """What it computes; RunError for a damaged file, or a graph of which it is not clear what it takes or gives."""
        if self._pixels is None:
            self._pixels = completed(self.service.input, self._inputs, pixels.shape, self.name)
        first = self._inputs[0]["shape"][0] if self._inputs[0]["shape"] else None
        batch = first if isinstance(first, int) and first > 0 else max(len(pixels), 1)
        parts = [self._run(pixels[start : start + batch], batch) for start in range(0, len(pixels), batch)]
        columns = [np.concatenate(each) for each in zip(*parts, strict=True)]
        return columns[0] if len(columns) == 1 else tuple(columns)

    def _run(self, pixels: NDArray[np.uint8], batch: int) -> list[NDArray[Any]]:
        """The outputs for at most `batch` images; a graph of a fixed batch is given the last image again."""
        assert self._pixels is not None
        whole = np.concatenate([pixels, pixels[-1:].repeat(batch - len(pixels), axis=0)])
        name, wanted = self._pixels.name or self._inputs[0]["name"], list(self._outputs)
        try:
            found = self._session.run(wanted, {name: self._pixels.of(whole)})
        except Exception as error:  # onnxruntime's own have no common base
            raise RunError(f"{self.name} cannot be computed: {' '.join(str(error).split())[:200]}") from error
        return [self._numbered(np.asarray(each))[: len(pixels)] for each in found]

    def _numbered(self, values: NDArray[Any]) -> NDArray[Any]:
        if values.dtype.kind not in "OU":
            return values
        return np.array(numbered(values.astype(str).tolist(), self._numbers, self), np.int64)

    @cached_property
    def _inputs(self) -> list[dict[str, Any]]:
        return [
            {"name": each.name, "datatype": TYPES.get(each.type, each.type), "shape": _sides(each.shape)}
            for each in self._session.get_inputs()
        ]

    @cached_property
    def _outputs(self) -> tuple[str, ...]:
        """The outputs that are meant: as the file says, else the only one of a form that `kind` has."""
        known = self._session.get_outputs()
        wanted = self.service.output
        if wanted is not None:
            names = wanted if isinstance(wanted, tuple) else (wanted,)
            lacking = next((name for name in names if name not in [each.name for each in known]), None)
            if lacking is not None:
                raise RunError(
                    f"{self.name} has no output {lacking!r}; there are {', '.join(each.name for each in known)}"
                )
            return names
        kinds = ("tensor(int64)", "tensor(int32)", "tensor(string)")
        fits = [each for each in known if (each.type in kinds) is (self.kind is Access.LABEL)]
        fits = [each for each in fits if each.type.startswith("tensor(")]
        found = fits if len(known) > 1 else known
        if len(found) != 1:
            told = ", ".join(f"{each.name}, {each.type}" for each in known)
            maps = (
                "; leave its ZipMap out (skl2onnx: zipmap=False)" if any("map(" in each.type for each in known) else ""
            )
            raise RunError(f"{self.name} has the outputs {told}: name one as `output` in an endpoint file{maps}")
        return (found[0].name,)

    @cached_property
    def _session(self) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise UsageError("ONNX files need onnxruntime: pip install 'undistill[onnx]'") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0") or 0)
        try:
            return onnxruntime.InferenceSession(str(self.service.file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own have no common base
            raise RunError(f"{self.name} is no ONNX model: {' '.join(str(error).split())[:200]}") from error


def _sides(shape: Any) -> list[int]:
    """A shape whose open sides are −1."""
    return [side if isinstance(side, int) else -1 for side in shape]
