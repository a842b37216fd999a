"""A service over HTTP is a victim like any other: asked as it wants to be, never twice, and without a word of its secrets."""

from __future__ import annotations

import base64
import io
import json
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from undistill import plugins
from undistill.data import load
from undistill.errors import RunError, UsageError
from undistill.experiments.extraction import attack, remembering
from undistill.oracle.black_box import BlackBox
from undistill.oracle.endpoint import LENGTH, Endpoint, Pixels, Service, read_service
from undistill.oracle.query_log import Answers, Ledger, undisturbed
from undistill.oracle.victim import resolve
from undistill.threat_model import Access

NAMES = ("cat", "dog", "frog")
Bytes = NDArray[np.uint8]


def pixels(count: int = 5, channels: int = 3, side: int = 4, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def scores(images: Any) -> NDArray[np.float32]:
    """What the network behind the service thinks of N × … pixels from 0 to 1: a function of the mean of each third."""
    values = np.asarray(images, np.float64)
    thirds = np.stack([part.mean(1) for part in np.array_split(values.reshape(len(values), -1), 3, axis=1)], axis=1)
    probs: NDArray[np.float32] = (np.exp(3 * thirds) / np.exp(3 * thirds).sum(1, keepdims=True)).astype(np.float32)
    return probs


class Drip(bytes):
    """Content of which a byte is sent now and then."""


def write(file: Any, content: bytes) -> None:
    """Send it whole, or drop by drop."""
    if not isinstance(content, Drip):
        file.write(content)
        return
    with suppress(OSError):  # the client has given up
        for _ in range(100):
            file.write(content[:1])
            time.sleep(0.02)


class Server:
    """A service whose replies are functions; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.replies: dict[tuple[str, str], Callable[[dict[str, str], bytes], Any]] = {}
        self.failures: list[tuple[int, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.handle_any()

            def do_POST(self) -> None:
                self.handle_any()

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                told = dict(self.headers.items())
                outer.asked.append((self.command, self.path, told, body))
                if self.command == "POST" and outer.failures:
                    return self.reply(*outer.failures.pop(0), b"busy")
                found = outer.replies.get((self.command, self.path))
                if found is None:
                    return self.reply(404, {}, b'{"error": "not here"}')
                said = found(told, body)
                if said is None:  # the connection breaks
                    self.close_connection = True
                    return None
                content, headers = said if isinstance(said, tuple) else (json.dumps(said).encode(), {})
                return self.reply(200, headers, content)

            def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response(status)
                for name, value in {
                    **headers,
                    "Content-Length": str(len(content) + 1000 * isinstance(content, Drip)),
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                write(self.wfile, content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def posts(self) -> int:
        return sum(method == "POST" for method, *_ in self.asked)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def v2(server: Server, shape: list[int], datatype: str = "FP32", *, binary: bool = False) -> str:
    """A model of the Open Inference Protocol."""

    def infer(told: dict[str, str], body: bytes) -> Any:
        size = int(told.get(LENGTH, len(body)))
        about = json.loads(body[:size])["inputs"][0]
        assert (about["name"], about["datatype"]) == ("x", datatype)
        kind = {"FP32": np.float32, "UINT8": np.uint8}[datatype]
        values = np.frombuffer(body[size:], kind) if binary else np.asarray(about["data"], kind)
        found = scores(values.reshape(about["shape"]) / (255 if datatype == "UINT8" else 1))
        out: dict[str, Any] = {"name": "probs", "datatype": "FP32", "shape": list(found.shape)}
        if not binary:
            return {"outputs": [{**out, "data": found.ravel().tolist()}]}
        head = json.dumps({"outputs": [{**out, "parameters": {"binary_data_size": found.nbytes}}]}).encode()
        return head + found.tobytes(), {LENGTH: str(len(head))}

    server.replies[("GET", "/v2")] = lambda *_: {"name": "s", "extensions": ["binary_tensor_data"] if binary else []}
    about = {"inputs": [{"name": "x", "datatype": datatype, "shape": shape}], "outputs": [{"name": "probs"}]}
    server.replies[("GET", "/v2/models/m")] = lambda *_: about
    server.replies[("POST", "/v2/models/m/infer")] = infer
    return f"{server.url}/v2/models/m"


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("shape", "datatype"),
    [
        ([-1, 3, 4, 4], "FP32"),
        ([-1, 4, 4, 3], "FP32"),
        ([-1, 48], "FP32"),
        ([1, 3, 4, 4], "UINT8"),
        ([-1, -1, -1, 3], "UINT8"),
    ],
)
def test_a_service_that_speaks_the_protocol_says_itself_what_it_takes(
    server: Server, shape: list[int], datatype: str, binary: bool
) -> None:
    asked = pixels()
    last = shape[-1] == 3  # channels
    expected = scores((asked.transpose(0, 2, 3, 1) if last else asked) / 255)
    found = Endpoint(Service(url=v2(server, shape, datatype, binary=binary)), NAMES)(asked)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_pixels_are_scaled_then_normalized() -> None:
    asked = np.array([0, 51, 255], np.uint8).reshape(1, 3, 1, 1)
    given = Pixels(layout="NCHW", datatype="FP32", range=(0, 10), mean=(1, 2, 3), std=(1, 2, 7)).of(asked)
    assert given.dtype == np.float32
    assert given.ravel().tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert Pixels(layout="NHWC", datatype="UINT8").of(pixels(1)).tolist() == pixels(1).transpose(0, 2, 3, 1).tolist()
    assert Pixels(layout="flat", datatype="INT32").of(asked).tolist() == [[0, 51, 255]]


@pytest.mark.parametrize(
    "asked",
    [
        Pixels(layout="NCHW", datatype="INT8"),
        Pixels(layout="NCHW", datatype="UINT8", range=(-1, 1)),
        Pixels(layout="NCHW", datatype="FP32", mean=(0.5, 0.5)),
        Pixels(layout="NCHW", datatype="FP32", std=(0.0,)),
    ],
)
def test_pixels_that_would_be_others_are_refused(asked: Pixels) -> None:
    with pytest.raises(UsageError):
        asked.of(np.array([0, 100, 255], np.uint8).reshape(1, 3, 1, 1))


def test_a_secret_that_is_no_header_is_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "hush-hush\n")
    endpoint = Endpoint(Service(url=v2(server, [-1, 48]), headers={"Authorization": "Bearer ${KEY}"}), NAMES)
    with pytest.raises(UsageError, match="the environment variable KEY holds a line break") as told:
        endpoint(pixels())
    assert "hush" not in str(told.value)


def test_class_names_are_class_numbers_also_as_bytes(server: Server) -> None:
    url = v2(server, [-1, 48])
    said = b"".join(struct.pack("<I", len(name)) + name for name in (b"frog", b"cat"))
    head = {"name": "l", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(said)}}
    content = json.dumps({"outputs": [head]}).encode()
    server.replies[("POST", "/v2/models/m/infer")] = lambda *_: (content + said, {LENGTH: str(len(content))})
    endpoint = Endpoint(Service(url=url, output="l"), NAMES)
    assert endpoint(pixels(2)).tolist() == [2, 0]
    plain = {"outputs": [{"name": "l", "datatype": "BYTES", "shape": [2, 1], "data": [["dog"], ["wolf"]]}]}
    server.replies[("POST", "/v2/models/m/infer")] = lambda *_: plain
    with pytest.raises(RunError, match="a class 'wolf' that the data do not have"):
        endpoint(pixels(2))


def test_any_other_service_is_asked_by_a_template(server: Server) -> None:
    asked = pixels()

    def batch(_: object, body: bytes) -> Any:
        said = json.loads(body)
        assert said["model"] == "m"
        found = scores([each["values"] for each in said["instances"]])
        return {"predictions": [{"scores": {name: float(row[at]) for at, name in enumerate(NAMES)}} for row in found]}

    def single(_: object, body: bytes) -> Any:
        found = scores((np.asarray(Image.open(io.BytesIO(body))).transpose(2, 0, 1) / 255)[None])[0]
        return [{"label": NAMES[at], "score": float(found[at])} for at in np.argsort(-found)]

    def coded(told: dict[str, str], body: bytes) -> Any:
        kind, _, content = json.loads(body)["image"].partition(",")
        assert kind == "data:image/png;base64"
        return {"label": single(told, base64.b64decode(content))[0]["label"]}

    server.replies |= {("POST", "/batch"): batch, ("POST", "/one"): single, ("POST", "/coded"): coded}
    expected = scores(asked / 255)
    many = Service(
        url=f"{server.url}/batch",
        body={"model": "m", "instances": "$images"},
        image={"values": "$pixels"},
        output="predictions[*].scores.[cat, dog, frog]",
    )
    box = BlackBox(Endpoint(many, NAMES), Access.PROBS, 3, "many", batch=2)
    np.testing.assert_allclose(box.checked_answer(asked), expected, atol=1e-6)
    assert server.posts == 3  # of two images each, and one
    one = Service(url=f"{server.url}/one", batch=1, body="$png", output="sort_by(@, &label)[*].score")
    box = BlackBox(Endpoint(one, NAMES), Access.PROBS, 3, "one", batch=1)
    np.testing.assert_allclose(box.checked_answer(asked), expected, atol=1e-6)
    label = Service(url=f"{server.url}/coded", batch=1, body={"image": "data:image/png;base64,$png"}, output="label")
    box = BlackBox(Endpoint(label, NAMES), Access.LABEL, 3, "label", batch=1)
    assert box.checked_answer(asked).tolist() == expected.argmax(1).tolist()


def test_what_was_not_computed_is_asked_again_and_what_may_have_been_is_not(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", slept.append)
    url = v2(server, [-1, 48])
    endpoint = Endpoint(Service(url=url, retries=3), NAMES)
    server.failures = [(429, {"Retry-After": "7"}), (503, {})]
    assert endpoint(pixels()).shape == (5, 3)
    assert server.posts == 3
    assert slept[0] == 7
    server.failures = [(503, {})] * 4
    with pytest.raises(RunError, match=r"busy \(503\), also after 3 retries; the same command goes on"):
        endpoint(pixels())
    for status in (500, 504):
        before = server.posts
        server.failures = [(status, {})]
        with pytest.raises(RunError, match=f"refused with {status}: busy"):
            endpoint(pixels())
        assert server.posts == before + 1
    before = server.posts
    server.replies[("POST", "/v2/models/m/infer")] = lambda *_: None
    with pytest.raises(RunError, match="the connection broke; the request may have been counted"):
        endpoint(pixels())
    assert server.posts == before + 1
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(RunError, match="nothing listens there"):
        Endpoint(Service(url=url, retries=1), NAMES)(pixels())


def test_a_redirect_takes_no_secret_along(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "hush-hush")
    url = v2(server, [-1, 48])
    endpoint = Endpoint(Service(url=url, headers={"Authorization": "Bearer ${KEY}"}), NAMES)
    endpoint(pixels())
    assert server.asked[-1][2]["Authorization"] == "Bearer hush-hush"
    server.failures = [(307, {"Location": "http://elsewhere/hush-hush"})]
    with pytest.raises(RunError, match="redirects to http://elsewhere/") as told:
        endpoint(pixels())
    assert "hush-hush" not in str(told.value)
    server.replies[("POST", "/v2/models/m/infer")] = lambda *_: (b'["no key hush-hush here"]', {})
    with pytest.raises(RunError) as told:
        endpoint(pixels())
    assert "hush-hush" not in str(told.value)
    assert "no key ${KEY} here" in str(told.value)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (b"<html>", "answered with no JSON"),
        (b"[1]", "no tensors of the protocol"),
        (
            b'{"outputs": [{"name": "probs", "datatype": "FP32", "shape": [5, 3], "data": [1]}]}',
            "no tensors of the protocol",
        ),
        (b'{"outputs": [{"name": "probs", "datatype": "X", "shape": [1], "data": [1]}]}', "no tensors of the protocol"),
        (
            b'{"outputs": [{"name": "other", "datatype": "FP32", "shape": [1], "data": [1]}]}',
            "answered with other, not with probs",
        ),
        (b'{"outputs": []}', "answered with nothing, not with probs"),
        (b"[" * 100_000, "answered with no JSON"),
        (b'{"outputs": [1]}', "no tensors of the protocol"),
        (
            b'{"outputs": [{"name": "probs", "datatype": "FP32", "shape": [1e999], "data": [1]}]}',
            "no tensors of the protocol",
        ),
    ],
)
def test_a_response_of_another_form_is_one_sentence(server: Server, said: bytes, sentence: str) -> None:
    url = v2(server, [-1, 48])
    server.replies[("POST", "/v2/models/m/infer")] = lambda *_: (said, {})
    with pytest.raises(RunError, match=sentence):
        Endpoint(Service(url=url), NAMES)(pixels())


def test_a_service_that_does_not_say_what_it_takes_is_described_in_a_file(server: Server) -> None:
    url = v2(server, [-1, 48])
    server.replies[("GET", "/v2/models/m")] = lambda *_: {"name": "m"}
    with pytest.raises(
        RunError, match=r"does not tell what it takes, the images are 3 × 4 × 4: say `input: \{layout: …\}`"
    ):
        Endpoint(Service(url=url), NAMES)(pixels())
    known = Service(url=url, output="probs", input=Pixels(name="x", layout="flat", datatype="FP32"))
    assert Endpoint(known, NAMES)(pixels()).shape == (5, 3)
    url = v2(server, [-1, 28, 28])
    with pytest.raises(RunError, match="takes FP32 of shape"):
        Endpoint(Service(url=url), NAMES)(pixels())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a list", "describes no endpoint"),
        ("url: [", "is no YAML file"),
        ("url: ftp://host/x", "none of http:// or https://"),
        ("url: https://host:x/v2/models/m", "none of http:// or https://"),
        ("url: https://host/v2/models/m?key=1", "put a key into a header"),
        ("url: https://me:pass@host/v2/models/m", "holds a password"),
        ("url: https://host/classify", "no endpoint of the Open Inference Protocol"),
        (
            "url: https://host/v2/models/m\nnope: 1",
            "nope: Extra inputs are not permitted; there are url, file, headers",
        ),
        ("url: https://host/v2/models/m\nspend: 5", "spend and price"),
        ("url: https://host/v2/models/m\ninput: {datatype: float}", "no data type of pixels: float"),
        ("url: http://host/v2/models/m\nheaders: {X: '${KEY}'}", "its secrets would travel unencrypted; use https"),
        ("url: https://host/x\nbody: {a: $images}", "output says where"),
        ("url: https://host/x\nbody: {a: $images}\noutput: 'a['", "no JMESPath expression"),
        ("url: https://host/x\nbody: $png\noutput: a", "set batch: 1"),
        ("url: https://host/x\nbody: {a: 1}\nbatch: 1\noutput: a", "no image is sent"),
        ("url: https://host/x\nbody: {a: $images}\nimage: x\noutput: a", "no image is sent"),
        ("url: https://host/x\nbody: {a: 'in $images'}\noutput: a", "stand alone, only $png may be within one"),
        ("url: http://host/v2/models/m\nheaders: {X-Api-Key: abc}", "its secrets would travel unencrypted; use https"),
        ("url: https://host/v2/models/m\nspend: .inf\nprice: 1", "spend: Input should be a finite number"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_before_anything_is_asked(
    tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "e.yaml").write_text(text)
    with pytest.raises(UsageError, match=sentence.replace("[", r"\[").replace("$", r"\$")):
        read_service(str(tmp_path / "e.yaml"))
    with pytest.raises(UsageError, match="there is no endpoint file"):
        read_service(str(tmp_path / "missing.yaml"))


def test_a_limit_in_images_or_in_money(server: Server) -> None:
    assert Service(url="https://h/v2/models/m", limit=10).most == 10
    assert Service(url="https://h/v2/models/m", limit=10_000, price=1.5, spend=3).most == 2_000
    box = BlackBox(Endpoint(Service(url=v2(server, [-1, 48])), NAMES), Access.PROBS, 3, "m", batch=2, limit=5)
    ledger = Ledger(Answers(Access.PROBS, 3), box, None)
    with pytest.raises(RunError, match="exceed the limit of 5 that m may be queried about; 4 were"):
        ledger(pixels(6))
    assert server.posts == 2
    ledger(pixels(4))
    assert server.posts == 2
    with pytest.raises(RunError, match="exceed the limit"):
        ledger.again(pixels(2))


def test_a_signal_waits_for_the_response_and_no_query_is_paid_twice(tmp_path: Path) -> None:
    """A predict function in whose second request the process is told to end."""
    paid: list[int] = []

    def predict(asked: Bytes) -> Any:
        if len(paid) == 1:
            signal.raise_signal(signal.SIGINT)
        paid.append(len(asked))
        return scores(asked / 255)

    def ledger() -> Ledger:
        kept = Answers.read(log) if (log := tmp_path / "log.parquet").is_file() else Answers(Access.PROBS, 3)
        return Ledger(kept, BlackBox(predict, Access.PROBS, 3, "f", batch=2), log)

    with pytest.raises(KeyboardInterrupt):
        ledger()(pixels(6))
    assert paid == [2, 2]
    np.testing.assert_allclose(ledger()(pixels(6)), scores(pixels(6) / 255), atol=1e-6)
    assert paid == [2, 2, 2]
    heard = []
    with pytest.raises(KeyboardInterrupt), undisturbed():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        heard.append("one")
        signal.raise_signal(signal.SIGINT)  # at once
        heard.append("two")
    assert heard == ["one"]


def test_an_attack_on_an_endpoint_is_an_attack_on_the_function_behind_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digits = load("digits", pool=400)

    def infer(_: object, body: bytes) -> Any:
        ten = np.tile(scores(json.loads(body)["instances"]), (1, 4))[:, :10].astype(np.float64)
        return {"p": (ten / ten.sum(1, keepdims=True)).tolist()}

    server.replies[("POST", "/classify")] = infer
    (tmp_path / "e.yaml").write_text(
        yaml.safe_dump({"url": f"{server.url}/classify", "body": {"instances": "$images"}, "output": "p", "batch": 16})
    )
    with pytest.raises(UsageError, match=r"only a file asks for it; if you trust that file, add --trust e\.yaml"):
        resolve("e.yaml", digits, answers="probs", typed=False)
    with pytest.raises(UsageError, match="declare it with --outputs"):
        resolve("e.yaml", digits)

    def call(name: str, **more: Any) -> Any:
        return attack(
            "e.yaml", digits, out=tmp_path / name, threat_model="probs/unlabelled/fresh/random/40", outputs="probs",
            recipe="digits", assume_fresh=True, accept_accuracy=True, query_log=tmp_path / "log.parquet", **more,
        )  # fmt: skip

    first = call("a")
    assert first.queries == 40
    assert server.posts == 3
    assert call("b").accuracy == first.accuracy
    assert server.posts == 3
    assert remembering(resolve("e.yaml", digits, answers="probs"), tmp_path / "log.parquet").kind == "endpoint"
    assert "e.yaml" in plugins.environment()[plugins.TRUSTED].split("\n")


def test_a_response_that_never_ends_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = v2(server, [-1, 48])
    endpoint = Endpoint(Service(url=url, timeout=0.1), NAMES)
    endpoint(pixels())
    server.replies[("POST", "/v2/models/m/infer")] = lambda *_: (Drip(b"[1, 2"), {})
    with pytest.raises(RunError, match=r"did not end its response within 1 s; the same command goes on"):
        endpoint(pixels())
    monkeypatch.setattr("undistill.oracle.endpoint.LARGEST", 3)
    server.replies[("POST", "/v2/models/m/infer")] = lambda *_: (b"[1, 2]", {})
    with pytest.raises(RunError, match="answered with more than"):
        endpoint(pixels())
