"""State dicts of others: every form that is safe is read, none is unpickled, and weights are loaded whole or not at all."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from undistill import plugins
from undistill.errors import RunError, UndistillError, UsageError
from undistill.models import Classifier, build
from undistill.models.state_dict import WRAPPERS, classes_of, load_state, read_state, translate

State = dict[str, Tensor]


def net(classes: int = 4, seed: int = 0, name: str = "cnn") -> Classifier:
    return build(name, classes, 3, 8, 0.125, seed=seed).eval()


def saved(content: Any, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(content, name="weights.pt")`: a file of these bytes."""

    def call(content: bytes, name: str = "weights.pt") -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return call


Write = Callable[..., Path]


def same(one: State, two: State) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


# -- what is read -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.tar", "weights.bin"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_files_of_torch_save_are_read(write: Write, name: str, legacy: bool) -> None:
    state = net().state_dict()
    assert same(read_state(write(saved(state, legacy=legacy), name)), dict(state))


def test_safetensors_are_read(write: Write) -> None:
    state = dict(net().state_dict())
    assert same(read_state(write(safetensors.torch.save(state), "weights.safetensors")), state)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_state_dict_is_found_inside_a_checkpoint(write: Write, wrapper: str, legacy: bool) -> None:
    state = net().state_dict()
    checkpoint = {"epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}, "args": "x", wrapper: state}
    assert same(read_state(write(saved(checkpoint, legacy=legacy))), dict(state))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "module.student.", "net.", "backbone.", "encoder.0.body."]
)
def test_a_prefix_that_all_names_share_is_dropped(prefix: str) -> None:
    state = net().state_dict()
    assert same(translate(net(), {f"{prefix}{name}": value for name, value in state.items()}), dict(state))


@pytest.mark.parametrize("prefix", ["module._orig_mod.model.", "_orig_mod.module.", "model.model."])
def test_prefixes_within_each_other_are_dropped(prefix: str) -> None:
    state = net().state_dict()
    assert same(translate(net(), {f"{prefix}{name}": value for name, value in state.items()}), dict(state))


def test_a_prefix_of_some_names_stays() -> None:
    mixed = {"module.head.weight": torch.ones(1), "head.bias": torch.ones(1)}
    assert set(translate(net(), mixed)) == set(mixed)


OWN_PREFIX = """
from torch import nn


class net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))

    def forward(self, images):
        return self.model(images)
"""


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module._orig_mod."])
def test_a_prefix_that_is_the_networks_own_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, prefix: str
) -> None:
    monkeypatch.setitem(plugins.REMEMBERED, plugins.TRUSTED, [])
    (tmp_path / "own_prefix.py").write_text(OWN_PREFIX)
    target = build(f"{tmp_path}/own_prefix.py:net", 4, 3, 8, seed=0)
    state = {f"{prefix}model.1.weight": torch.ones(4, 192), f"{prefix}model.1.bias": torch.ones(4)}
    tensors = read_state(write(saved(state)))
    assert classes_of(target, tensors) == 4
    load_state(target, tensors, "weights.pt")
    assert all(bool((value == 1).all()) for value in target.state_dict().values())


def test_what_is_no_tensor_is_left_out(write: Write) -> None:
    assert set(read_state(write(saved({"weight": torch.ones(1), "epoch": 3, "name": "x"})))) == {"weight"}


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.ones(1)], torch.ones(2), 3, "x", None, {"model": {}}])
def test_a_file_without_named_tensors_is_refused(write: Write, content: Any) -> None:
    with pytest.raises(UsageError, match=r"weights\.pt holds no (state dict but a \w+|named tensors)$"):
        read_state(write(saved(content)))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no weights at"):
        read_state(tmp_path / "weights.pt")
    with pytest.raises(UsageError, match="there are no weights at"):
        read_state(tmp_path)


# -- loading ------------------------------------------------------------------------------------------------------------


def answers(model: Classifier) -> Tensor:
    return model(torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)))


def test_loaded_weights_answer_alike() -> None:
    source, target = net(), net(seed=1)
    assert not torch.equal(answers(target), answers(source))
    assert load_state(target, source.state_dict(), "weights.pt")
    assert torch.equal(answers(target), answers(source))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_float32(dtype: torch.dtype) -> None:
    state = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in net().state_dict().items()
    }
    target = net(seed=1)
    load_state(target, state, "weights.pt")
    assert all(value.dtype in (torch.float32, torch.int64) for value in target.state_dict().values())
    assert torch.allclose(answers(target), answers(net()), atol=0.02)


def test_counts_of_batches_may_be_missing() -> None:
    state = {name: value for name, value in net().state_dict().items() if not name.endswith("num_batches_tracked")}
    target = net(seed=1)
    load_state(target, state, "weights.pt")
    assert torch.equal(answers(target), answers(net()))


def test_a_classifier_saved_as_a_1x1_convolution_becomes_a_linear_layer() -> None:
    state = dict(net().state_dict())
    state["head.weight"] = state["head.weight"][:, :, None, None]
    target = net(seed=1)
    assert classes_of(target, state) == 4
    load_state(target, state, "weights.pt")
    assert torch.equal(answers(target), answers(net()))


def test_the_head_tells_how_many_classes_there_are() -> None:
    assert classes_of(net(2), net(7).state_dict()) == 7
    assert classes_of(net(2), {"body": torch.ones(3)}) is None


def test_a_head_for_other_classes_is_refused_by_both_numbers() -> None:
    with pytest.raises(UsageError, match=r"the weights in weights\.pt tell 7 classes apart, the data 4"):
        load_state(net(), net(7).state_dict(), "weights.pt")


def test_a_new_head_stays_as_drawn_and_the_rest_is_loaded() -> None:
    source, target = net(7, seed=1), net()
    drawn = dict(net().state_dict())
    assert not load_state(target, source.state_dict(), "weights.pt", new_head=True)
    found = target.state_dict()
    for name, value in found.items():
        assert torch.equal(value, drawn[name] if name.startswith("head.") else source.state_dict()[name]), name


def test_a_head_that_fits_is_kept_where_a_new_one_is_allowed() -> None:
    target = net(seed=1)
    assert load_state(target, net().state_dict(), "weights.pt", new_head=True)
    assert torch.equal(answers(target), answers(net()))


def wrong(change: Callable[[State], object]) -> State:
    state = dict(net(seed=1).state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (wrong(lambda s: s.pop("body.0.0.weight")), r"are not those of cnn: they lack 'body\.0\.0\.weight'$"),
        (wrong(lambda s: s.pop("head.weight")), r"they lack 'head\.weight'$"),
        (wrong(lambda s: s.update(extra=torch.ones(1))), "they hold 'extra', which it does not know$"),
        (wrong(lambda s: s.update(a=torch.ones(1), b=torch.ones(1))), "they hold 'a' and 1 more, which"),
        (
            wrong(lambda s: s.update({"body.0.0.bias": torch.ones(9)})),
            r"do not fit cnn: 'body\.0\.0\.bias' is 9 there and 4 here$",
        ),
        (wrong(lambda s: s.update({"head.bias": torch.ones(9)})), r"'head\.bias' is 9 there and 4 here$"),
        (wrong(lambda s: s.update({"head.weight": torch.ones(())})), r"'head\.weight' is a number there"),
        (wrong(lambda s: s.update({"fc2.bias": torch.ones(4)})), r"two of the weights mean 'head\.bias'$"),
        ({"x": torch.ones(1)}, "they lack .* and [0-9]+ more, and hold 'x'"),
    ],
)
@pytest.mark.parametrize("new_head", [False, True])
def test_weights_that_do_not_fit_are_named_and_change_nothing(state: State, words: str, new_head: bool) -> None:
    target = net()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UsageError, match=words):
        load_state(target, state, "weights.pt", new_head=new_head)
    assert same(before, dict(target.state_dict()))


def quantised(value: Tensor) -> Tensor:
    return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.to(torch.int64), "is int64 there and float32 here"),
        (lambda value: value.bool(), "is bool there and float32 here"),
        (lambda value: value.to(torch.complex64), "is complex64 there and float32 here"),
        (quantised, "is qint8 there and float32 here"),
        (lambda value: value / 0, "holds values that are not finite"),
        (lambda value: value.double() + 1e300, "holds values that are not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_weights_that_are_no_finite_floats_are_refused(change: Callable[[Tensor], Tensor], words: str) -> None:
    target = net()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UsageError, match=rf"'head\.weight' {words}; save them again as finite floats$"):
        load_state(target, wrong(lambda s: s.update({"head.weight": change(s["head.weight"])})), "weights.pt")
    assert same(before, dict(target.state_dict()))


@pytest.mark.parametrize(
    ("count", "kept"),
    [
        (torch.tensor(7.0), 7),
        (torch.tensor(7.0).half(), 7),
        (torch.tensor([7]), 7),
        (torch.tensor(0.5), 0),
        (torch.tensor(float("nan")), 0),
        (torch.zeros(3), 0),
    ],
    ids=["float", "half", "vector", "fraction", "NaN", "several"],
)
def test_counts_of_batches_are_made_whole_or_left_out(count: Tensor, kept: int) -> None:
    state, target = dict(net(name="resnet18").state_dict()), net(name="resnet18", seed=1)
    name = next(name for name in state if name.endswith("num_batches_tracked"))
    load_state(target, {**state, name: count}, "weights.pt")
    assert target.state_dict()[name].dtype == torch.int64
    assert int(target.state_dict()[name]) == kept
    assert torch.equal(answers(target), answers(net(name="resnet18")))


def test_averaged_weights_and_counted_operations_are_read(write: Write) -> None:
    source, target = net(name="resnet18"), net(name="resnet18", seed=1)
    averaged = torch.optim.swa_utils.AveragedModel(source).state_dict()
    assert "n_averaged" in averaged
    extra = {"module.total_ops": torch.zeros(1), "module.body.0.total_params": torch.zeros(1)}
    load_state(target, read_state(write(saved({**averaged, **extra}))), "weights.pt")
    assert torch.equal(answers(target), answers(source))


def test_a_renamed_head_is_named_with_its_place() -> None:
    state = {name.replace("head.", "classifier.1."): value for name, value in net().state_dict().items()}
    with pytest.raises(
        UsageError, match=r"names differ: they hold 'classifier\.1\.bias' where it has 'head\.bias', .*weight'"
    ):
        load_state(net(), state, "weights.pt")


def test_of_two_networks_in_one_file_both_are_named() -> None:
    state = net().state_dict()
    both = {f"{part}.{name}": value for part in ("student", "teacher") for name, value in state.items()}
    with pytest.raises(UsageError, match=r"those under 'student\.' and under 'teacher\.' are"):
        load_state(net(), both, "weights.pt")


def test_the_only_state_dict_of_a_checkpoint_is_found_whatever_its_name(write: Write) -> None:
    state = net().state_dict()
    checkpoint = {
        "epoch": 3,
        "my_classifier": state,
        "optimizer": {"state": {0: {"m": torch.ones(2)}}, "param_groups": []},
    }
    assert same(read_state(write(saved(checkpoint))), dict(state))
    assert same(read_state(write(saved({"model": {"state_dict": state}}))), dict(state))
    with pytest.raises(UsageError, match="2 state dicts, 'generator', 'critic'"):
        read_state(write(saved({"generator": state, "critic": state})))


def test_safetensors_and_torch_files_are_read_under_each_others_names(write: Write) -> None:
    state = dict(net().state_dict())
    assert same(read_state(write(safetensors.torch.save(state), "weights.pt")), state)
    assert same(read_state(write(saved(state), "weights.safetensors")), state)


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def numpy_archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.ones(2))
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("weights.pt"))
    return buffer.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46830571\n"
OTHERS: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "is empty .*again"),
    ("lfs", POINTER, "git-lfs pointer.*git lfs pull"),
    ("annex", b"/annex/objects/MD5E-s123--abc.pt\n", "git-annex pointer.*git annex get"),
    ("page", b"<!DOCTYPE html>\n<html><head>", "web page.*download it again"),
    ("page in capitals", b"\n  <HTML lang='en'>", "web page"),
    ("server's word", b'{"error": "Repository not found"}', "is JSON.*Repository not found.*download"),
    ("missing entry", b"Entry not found", "is text.*Entry not found"),
    ("onnx", b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:\x8e\x01\n", "ONNX model.*--outputs"),
    (
        "zip",
        archive(**{"resnet/weights.pt": b"x", "readme": b"y"}),
        "zip archive with resnet/weights.pt and 1 more.*unpack",
    ),
    ("empty zip", archive(), "zip archive, an empty one"),
    ("numpy", numpy_archive(), "NumPy arrays"),
    ("script", script(), "TorchScript.*state_dict"),
    ("keras", archive(**{"config.json": b"{}", "model.weights.h5": b""}), "Keras.*--outputs"),
    ("hdf5", b"\x89HDF\r\n\x1a\n" + bytes(8), "HDF5.*--outputs"),
    ("tflite", b"\x1c\0\0\0TFL3" + bytes(8), "TensorFlow Lite"),
    ("gguf", b"GGUF\x03\0\0\0", "GGUF"),
    ("gzip", gzip.compress(b"x"), "gzip archive.*unpack"),
    ("tar", tarred(), "tar archive.*unpack"),
]


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in OTHERS], ids=[case[0] for case in OTHERS])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_file_that_is_no_weights_is_named_with_what_to_do(
    write: Write, name: str, content: bytes, words: str
) -> None:
    with pytest.raises(RunError, match=rf"weights\.\w+ .*{words}"):
        read_state(write(content, name))


def test_a_file_named_onnx_is_one(write: Write) -> None:
    with pytest.raises(RunError, match="ONNX model"):
        read_state(write(b"\x08\x03\x12\x04CNTK\xff", "net.onnx"))


def test_tensors_without_values_are_refused(write: Write) -> None:
    state = {name: value.to("meta") for name, value in net().state_dict().items()}
    with pytest.raises(UsageError, match=r"weights\.pt holds 'body\.0\.0\.weight' without its values"):
        read_state(write(saved(state)))


def test_foreign_names_find_their_place() -> None:
    ours = net(name="resnet18").state_dict()
    rules = [(r"body\.0\.0\.", "conv1."), (r"body\.0\.1\.", "bn1."), (r"body\.(\d)\.(\d)\.", r"layer\1.\2.")]
    rules += [("norm", "bn"), ("shortcut", "downsample"), ("head", "fc")]
    theirs = {}
    for name, value in ours.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        theirs[name] = value
    assert not theirs.keys() & ours.keys()
    target = net(name="resnet18", seed=1)
    load_state(target, theirs, "weights.pt")
    assert torch.equal(answers(target), answers(net(name="resnet18")))


# -- hostile files ------------------------------------------------------------------------------------------------------


class Trap:
    """A pickle that, when opened, leaves a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.target), "w")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda trap: pickle.dumps(trap),
        lambda trap: pickle.dumps({"state_dict": trap}, protocol=2),
        lambda trap: pickle.dumps(trap, protocol=0),
        lambda trap: saved({"state_dict": {"weight": torch.ones(1)}, "trap": trap}),
        lambda trap: saved({"weight": torch.ones(1), "trap": trap}, legacy=True),
    ],
    ids=["pickle", "protocol 2", "protocol 0", "zip", "legacy"],
)
@pytest.mark.parametrize("name", ["weights.pt", "weights.tar", "weights.safetensors"])
def test_a_pickle_that_runs_code_is_refused_and_never_run(
    write: Write, tmp_path: Path, name: str, wrap: Callable[[Trap], bytes]
) -> None:
    with pytest.raises(RunError) as refused:
        read_state(write(wrap(Trap(tmp_path / "caught")), name))
    assert "\n" not in str(refused.value)
    assert name in str(refused.value)
    assert not (tmp_path / "caught").exists()


def test_the_trap_would_have_worked(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "caught"))).close()
    assert (tmp_path / "caught").exists()


def test_a_whole_module_is_refused(write: Write) -> None:
    with pytest.raises(RunError, match="holds more than tensors, or is damaged: it was not opened"):
        read_state(write(saved(nn.Linear(2, 2))))


def harmless(content: bytes, place: Path) -> None:
    """The file is read, or refused in one sentence."""
    place.write_bytes(content)
    said, found = "nothing", State()
    try:
        found = read_state(place)
    except UndistillError as error:
        said = str(error)
    assert said
    assert "\n" not in said
    assert all(isinstance(value, Tensor) for value in found.values())


SMALL = {"state_dict": {"body.weight": torch.arange(6.0).view(2, 3), "body.bias": torch.ones(2)}, "epoch": 1}
SEEDS = {
    "zip": saved(SMALL),
    "legacy": saved(SMALL, legacy=True),
    "safetensors": safetensors.torch.save({"weight": torch.ones(2, 3), "bias": torch.ones(2)}),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@given(
    content=st.binary(max_size=200), start=st.sampled_from([b"", b"\x80\x02", b"\x80\x05", b"PK\x03\x04", b"\x1f\x8b"])
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_random_bytes_are_refused_in_a_sentence(place: Path, suffix: str, start: bytes, content: bytes) -> None:
    harmless(start + content, place / f"weights{suffix}")


@given(data=st.data())
@pytest.mark.parametrize("form", SEEDS)
def test_files_with_changed_bytes_are_read_or_refused_in_a_sentence(
    place: Path, form: str, data: st.DataObject
) -> None:
    content = bytearray(SEEDS[form])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    harmless(bytes(content), place / ("weights.safetensors" if form == "safetensors" else "weights.pt"))


@pytest.mark.parametrize("form", SEEDS)
def test_files_cut_anywhere_are_refused_in_a_sentence(place: Path, form: str) -> None:
    for keep in range(0, len(SEEDS[form]), max(1, len(SEEDS[form]) // 60)):
        harmless(SEEDS[form][:keep], place / ("weights.safetensors" if form == "safetensors" else "weights.pt"))


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        zipped(),
        zipped(thesis=b"text"),
        zipped(version=b"3\n"),
        zipped(version=b"3\n", **{"data.pkl": b"junk"}),
        zipped(version=b"3\n", **{"data.pkl": b""}),
        zipped(version=b"x", **{"data.pkl": pickle.dumps({"a": 1}, 2)}),
        b"",
        b"hello",
        pickle.dumps(3),
    ],
)
def test_junk_is_refused(write: Write, content: bytes) -> None:
    with pytest.raises(UndistillError, match=r"^[^\n]*weights\.pt [^\n]*$"):
        read_state(write(content))


def lying(header: Any, data: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list[int], end: int = 8, dtype: str = "F32", start: int = 0) -> dict[str, Any]:
    return {"weight": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


@pytest.mark.parametrize(
    "content",
    [
        lying({}, length=2**63),
        lying({}, length=2**40),
        lying(tensor([2**40])),
        lying(tensor([2**40], end=2**42)),
        lying(tensor([2**32, 2**32])),
        lying(tensor([-2])),
        lying(tensor([2], start=4, end=2)),
        lying(tensor([2], dtype="F99")),
        lying(tensor([3])),
        lying(b"[" * 5000),
        lying({**tensor([2]), "other": tensor([2])["weight"]}),
    ],
)
def test_headers_of_safetensors_that_lie_are_refused(write: Write, content: bytes) -> None:
    with pytest.raises(RunError, match=r"^[^\n]*weights\.safetensors is damaged[^\n]*$"):
        read_state(write(content, "weights.safetensors"))


def test_a_prefix_of_all_but_the_head_is_taken_off() -> None:
    state = net().state_dict()
    assert {name for name in state if name.startswith("head.")}
    given = {name if name.startswith("head.") else f"backbone.{name}": value for name, value in state.items()}
    made = net(seed=1)
    assert load_state(made, given, "weights.pt")
    assert same(dict(made.state_dict()), dict(state))
    with pytest.raises(UsageError, match="backbone"):
        load_state(net(), given | {"projector.weight": torch.zeros(2)}, "weights.pt")


def test_a_network_beside_other_weights_is_read_and_the_others_are_named(caplog: pytest.LogCaptureFixture) -> None:
    state = net(seed=1).state_dict()
    beside = {f"model.{name}": value for name, value in state.items()} | {"criterion.weight": torch.ones(4)}
    network = net()
    with caplog.at_level("INFO", logger="undistill"):
        load_state(network, beside, "epoch=3.ckpt")
    assert same(network.state_dict(), state)
    assert "'criterion.weight'" in caplog.text


def test_an_index_of_safetensors_is_read_and_leads_nowhere_else(tmp_path: Path) -> None:
    state = dict(net(seed=1).state_dict())
    names = sorted(state)
    parts = {"model-1.safetensors": names[:3], "model-2.safetensors": names[3:]}
    for file, held in parts.items():
        safetensors.torch.save_file({name: state[name].contiguous() for name in held}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, held in parts.items() for name in held}}))
    assert same(read_state(index), state)
    index.write_text(json.dumps({"weight_map": {"a": "../model-1.safetensors"}}))
    with pytest.raises(RunError, match="in its own folder"):
        read_state(index)
    index.write_text("[]")
    with pytest.raises(RunError, match="no index of safetensors"):
        read_state(index)
