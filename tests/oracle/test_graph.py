"""An ONNX file is a victim that answers as the network it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from undistill.data import load
from undistill.data.image_set import Splits
from undistill.errors import RunError, UsageError
from undistill.experiments.extraction import attack
from undistill.oracle.black_box import BlackBox
from undistill.oracle.victim import resolve

WEIGHTS = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
NAMES: Any = [str((n + 1) % 10).encode() for n in range(10)]
PIXELS = np.random.default_rng(1).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)


def write(path: Path, shape: list[Any], *, labels: bool = False, names: bool = False, scale: float = 1.0) -> Path:
    """softmax(W · pixels) as a graph, with the most likely class beside it where that is wanted."""
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probs"], axis=1),
    ]
    outputs = [helper.make_tensor_value_info("probs", TensorProto.FLOAT, [None, 10])]
    if labels:
        nodes.append(helper.make_node("ArgMax", ["probs"], ["label"], axis=1, keepdims=0))
        outputs.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, [None]))
    if names:
        words = helper.make_tensor("names", TensorProto.STRING, [10], NAMES)
        nodes += [
            helper.make_node("Constant", [], ["names"], value=words),
            helper.make_node("Gather", ["names", "label"], ["word"]),
        ]
        outputs = [helper.make_tensor_value_info("word", TensorProto.STRING, [None])]
    given = [
        numpy_helper.from_array(WEIGHTS * scale, "w"),
        numpy_helper.from_array(np.array([-1, 64], np.int64), "flat"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], outputs, given
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def expected(pixels: Any, scale: float = 1.0) -> Any:
    logits = pixels.reshape(len(pixels), -1) / 255 @ (WEIGHTS * scale)
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def answers(path: Path, data: Splits, kind: str) -> Any:
    box = resolve(path, data, answers=kind).model
    assert isinstance(box, BlackBox)
    return box.checked_answer(PIXELS)


@pytest.fixture(scope="module")
def data() -> Splits:
    return load("digits", pool=400)


@pytest.mark.parametrize("shape", [["N", 1, 8, 8], ["N", 8, 8, 1], ["N", 64], [1, 1, 8, 8], [4, 64], [7, 64]])
def test_a_graph_says_itself_what_it_takes(tmp_path: Path, data: Splits, shape: list[Any]) -> None:
    path = write(tmp_path / "m.onnx", shape, labels=True)
    np.testing.assert_allclose(answers(path, data, "probs"), expected(PIXELS), atol=1e-5)
    assert answers(path, data, "label").tolist() == expected(PIXELS).argmax(1).tolist()


def test_names_are_classes_and_a_file_says_the_rest(tmp_path: Path, data: Splits) -> None:
    path = write(tmp_path / "m.onnx", ["N", 64], labels=True, names=True)
    assert answers(path, data, "label").tolist() == ((expected(PIXELS).argmax(1) + 1) % 10).tolist()
    write(tmp_path / "bytes.onnx", ["N", "C", "H", "W"], labels=True, scale=1 / 255)
    described = tmp_path / "e.yaml"
    described.write_text("file: bytes.onnx\noutput: probs\ninput: {layout: NCHW, range: [0, 255]}\n")
    np.testing.assert_allclose(answers(described, data, "probs"), expected(PIXELS), atol=1e-5)


def test_what_is_no_model_is_one_sentence(tmp_path: Path, data: Splits) -> None:
    broken = tmp_path / "b.onnx"
    broken.write_bytes(b"\x08\x07 onnx nonsense")
    with pytest.raises(RunError, match=r"b\.onnx is no ONNX model"):
        answers(broken, data, "probs")
    with pytest.raises(UsageError, match="there is no ONNX model at"):
        resolve(tmp_path / "missing.onnx", data, answers="probs")
    with pytest.raises(RunError, match=r"takes FP32 of shape .*, the images are 1 × 8 × 8"):
        answers(write(tmp_path / "m.onnx", [1, 3, 8, 8]), data, "probs")
    (tmp_path / "e.yaml").write_text("file: m.onnx\noutput: nope\n")
    write(tmp_path / "m.onnx", ["N", 64])
    with pytest.raises(RunError, match=r"has no output 'nope'; there are probs"):
        answers(tmp_path / "e.yaml", data, "probs")


def test_an_attack_on_an_onnx_file(tmp_path: Path, data: Splits) -> None:
    path = write(tmp_path / "m.onnx", ["N", 1, 8, 8], labels=True)
    cell = attack(
        path, data, out=tmp_path / "a", threat_model="probs/unlabelled/fresh/random/40", outputs="probs", recipe="digits",
        assume_fresh=True, accept_accuracy=True,
    )  # fmt: skip
    assert (cell.status, cell.queries, cell.victim) == ("ok", 40, "m.onnx")
    again = resolve(path, data, answers="probs").id
    write(path, ["N", 1, 8, 8], labels=True, scale=0.5)
    assert resolve(path, data, answers="probs").id != again
