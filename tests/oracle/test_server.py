"""A served model answers over HTTP what it answers from its file, and tells a request that it cannot answer so."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import urllib3
import uvicorn

from undistill.data import load
from undistill.data.image_set import Splits
from undistill.errors import RunError, UsageError
from undistill.experiments.extraction import attack
from undistill.oracle.endpoint import LENGTH, Endpoint, Service
from undistill.oracle.oracle import Oracle
from undistill.oracle.output_defense import chain
from undistill.oracle.serving import Bucket, Served, _Wrong, application
from undistill.oracle.victim import Victim, resolve
from undistill.threat_model import ThreatModel
from undistill.training.recipe import read
from undistill.training.train import train

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def data() -> Splits:
    return load("digits", pool=400)


@pytest.fixture(scope="module")
def folder(data: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("serving") / "net"
    train(None, data, read("digits", ["training.epochs=4"]), out=out)
    return out


@pytest.fixture(scope="module")
def victim(folder: Path) -> Victim:
    return resolve(folder)


def request(pixels: Any = PIXELS, **about: Any) -> bytes:
    one = {"name": "x", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.ravel().tolist()} | about
    return json.dumps({"inputs": [one]}).encode()


def told(served: Served, body: bytes, length: str | None = None) -> dict[str, Any]:
    content, _, count = served.answer(served.asked(body, length))
    said: dict[str, Any] = json.loads(content)
    assert count == said["outputs"][0]["shape"][0]
    return said


@pytest.mark.parametrize("behind", [(), ("rounding digits=1",), ("reverse-sigmoid",)])
@pytest.mark.parametrize("access", ["probs", "top5:2", "top1", "label", "logits"])
def test_what_is_served_is_what_the_oracle_shows(victim: Victim, access: str, behind: tuple[str, ...]) -> None:
    card = ThreatModel(data="unlabelled").served(access)
    hidden = Victim(victim.model, None, victim.network_id, behind=chain(behind))
    given: dict[str, Any] = {"top_k": card.top or 5, "digits": card.digits, "behind": hidden.behind}
    expected = Oracle(victim.network, card.access, **given).ask(torch.from_numpy(PIXELS) / 255).values
    served = Served(hidden, access, "net")
    out = told(served, request())["outputs"][0]
    assert out["shape"] == list(expected.shape)
    assert np.allclose(np.array(out["data"]).reshape(out["shape"]), expected.numpy(), atol=1e-6)
    assert served.metadata["outputs"][0]["datatype"] == out["datatype"]
    floats = request(PIXELS.astype(np.float64) / 255, datatype="FP32")
    assert told(served, floats)["outputs"][0]["data"] == pytest.approx(out["data"], abs=1e-6)


def test_tensors_travel_as_bytes_too(victim: Victim) -> None:
    served = Served(victim, "probs", "net")
    about = {"name": "x", "shape": [5, 1, 8, 8], "datatype": "UINT8", "parameters": {"binary_data_size": PIXELS.nbytes}}
    head = json.dumps({"id": 7, "inputs": [about], "parameters": {"binary_data_output": True}}).encode()
    content, headers, _ = served.answer(served.asked(head + PIXELS.tobytes(), str(len(head))))
    cut = int(headers[LENGTH])
    said = json.loads(content[:cut])
    assert said["id"] == "7"
    plain = told(served, request())["outputs"][0]["data"]
    assert np.frombuffer(content[cut:], "<f4").tolist() == pytest.approx(plain, abs=1e-7)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no request"),
        (b"[" * 100_000, "no request"),
        (b"[1]", "no request"),
        (b'{"inputs": []}', "no request"),
        (b'{"inputs": [1]}', "no request"),
        (b'{"inputs": [{"datatype": "UINT8", "shape": [1, 1, 8, 8], "parameters": [1]}]}', "no request"),
        (json.dumps({**json.loads(request()), "outputs": [1]}).encode(), "no request"),
        (json.dumps({**json.loads(request()), "outputs": [{"name": "logits"}]}).encode(), "its output is called probs"),
        (request(datatype="FP64"), "it takes N × 1 × 8 × 8 of UINT8 or FP32"),
        (request(shape=[5, 8, 8, 1]), "it takes N × 1 × 8 × 8"),
        (request(shape=[1, 1, 8, 8]), "no request"),
        (request(shape=[-5, 1, 8, 8]), "it takes 1 to 6 images"),
        (request(np.repeat(PIXELS, 2, axis=0)), "it takes 1 to 6 images a request, not 10"),
        (request(np.full((1, 1, 8, 8), 256)), "UINT8 are whole numbers from 0 to 255"),
        (request(np.full((1, 1, 8, 8), 0.5)), "UINT8 are whole numbers from 0 to 255"),
        (request(np.full((1, 1, 8, 8), 1.5), datatype="FP32"), "FP32 pixels are from 0 to 1"),
        (request(np.full((1, 1, 8, 8), np.nan), datatype="FP32"), "FP32 pixels are from 0 to 1"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(victim: Victim, body: bytes, words: str) -> None:
    with pytest.raises(_Wrong, match=re.escape(words)) as wrong:
        Served(victim, "probs", "net", batch=6).asked(body, None)
    assert wrong.value.status == 400


def test_an_output_that_is_not_finite_is_one_users_trouble(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(victim, "probs", "net")
    before = told(served, request())
    broken = torch.full((5, 10), torch.nan)
    with monkeypatch.context() as patch:
        patch.setattr("undistill.oracle.inference.Frozen.__call__", lambda *_: broken)
        with pytest.raises(RunError, match=r"not finite|NaN"):
            served.answer(served.asked(request(), None))
    assert told(served, request()) == before
    assert served.oracle.queries == 15


def test_a_rate_lets_a_seconds_worth_through_at_once() -> None:
    bucket = Bucket(10.0, since=0.0)
    assert bucket.wait(10, 0.0) == 0
    assert bucket.wait(5, 0.0) == pytest.approx(0.5)
    assert bucket.wait(5, 0.4) == pytest.approx(0.1)
    assert bucket.wait(5, 0.5) == 0
    assert bucket.wait(40, 1.0) == pytest.approx(0.5)  # more than a second's worth waits for a full bucket
    assert bucket.wait(40, 1.5) == 0
    assert bucket.wait(1, 4.5) == pytest.approx(0.1)  # and is paid for afterwards


def test_weights_are_not_served(victim: Victim) -> None:
    with pytest.raises(UsageError, match="a server gives no weights"):
        Served(victim, "weights", "net")


# -- over HTTP ----------------------------------------------------------------------------------------------------------


class Server:
    """`undistill serve`, as a process."""

    def __init__(self, folder: Path, *words: str) -> None:
        command = [sys.executable, "-m", "undistill", "serve", str(folder), "--port", "0", *words]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]
        assert self.url.startswith("http://127.0.0.1:"), self.url


@pytest.fixture
def serve(folder: Path) -> Iterator[Any]:
    started: list[Server] = []

    def start(*words: str) -> Server:
        started.append(Server(folder, *words))
        return started[-1]

    yield start
    for each in started:
        each.process.send_signal(signal.SIGTERM)
        assert each.process.wait(30) == 0
        assert each.process.stdout is not None
        assert each.process.stdout.read() == ""
        each.process.stdout.close()


@pytest.mark.parametrize(
    ("access", "behind"),
    [
        ("probs", ()),
        ("top5:2", ()),
        ("top1", ()),
        ("label", ()),
        ("probs", ("rounding digits=1",)),
        ("probs", ("stingy",)),
    ],
)
def test_an_attack_over_http_gets_what_one_on_the_file_gets(
    folder: Path, data: Splits, tmp_path: Path, access: str, behind: tuple[str, ...]
) -> None:
    site = application(Served(resolve(folder, behind=behind), access, "net"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(site, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v2/models/net"
        card = ThreatModel.parse(f"{access}/unlabelled/fresh/random/60")
        common: dict[str, Any] = {"threat_model": card, "recipe": read("digits", ["training.epochs=3"])}
        common["attack"] = {"name": "label-only" if access == "label" else "kd"}
        try:
            there = attack(
                url, data, out=tmp_path / "there", assume_fresh=True, ask_test=True, outputs=card.access.label, **common
            )
        finally:
            server.should_exit = True
            thread.join()
    here = attack(folder, data, out=tmp_path / "here", output_defense=behind, **common)
    assert there.queries == here.queries == 60
    assert (there.accuracy, there.agreement) == (here.accuracy, here.agreement)


@pytest.mark.e2e
def test_the_client_of_an_audit_gets_what_the_file_answers(serve: Any, victim: Victim) -> None:
    server = serve("--access", "top5:2", "--output-defense", "rounding digits=1", "--name", "my net")
    assert server.url.endswith("/v2/models/my-net")
    found = Endpoint(Service(url=server.url), tuple(map(str, range(10))))(PIXELS)
    behind = chain(("rounding digits=1",))
    card = ThreatModel(data="unlabelled").served("top5:2")
    oracle = Oracle(victim.network, card.access, top_k=5, digits=card.digits, behind=behind)
    np.testing.assert_allclose(found, oracle.ask(torch.from_numpy(PIXELS) / 255).values, atol=1e-6)
    pool, root = urllib3.PoolManager(), server.url.partition("/v2/")[0]
    assert pool.request("GET", f"{root}/v2/health/ready").json() == {"ready": True}
    assert pool.request("GET", f"{server.url}/ready").json()["ready"] is True
    assert pool.request("GET", f"{server.url}/versions/2").status == 404
    refused = pool.request("POST", f"{server.url}/infer", body=b"{}")
    assert (refused.status, list(refused.json())) == (400, ["error"])
    counted = pool.request("GET", f"{root}/metrics").data.decode()
    assert "undistill_images_total 5.0" in counted
    assert 'undistill_requests_total{status="400"} 1.0' in counted


@pytest.mark.e2e
def test_more_than_it_can_compute_is_told_to_come_again_and_nothing_is_lost(serve: Any) -> None:
    server = serve("--batch", "8")
    statuses: list[int] = []
    pool = urllib3.PoolManager(maxsize=200, block=False, retries=False)
    body = request(np.repeat(PIXELS[:1], 8, axis=0))

    def ask() -> None:
        for _ in range(3):
            status = 503
            while status == 503:
                statuses.append(status := pool.request("POST", f"{server.url}/infer", body=body).status)
                time.sleep(0.1 * (status == 503))

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 503}
    assert statuses.count(200) == 300
    counted = pool.request("GET", server.url.partition("/v2/")[0] + "/metrics").data.decode()
    assert f"undistill_images_total {8.0 * statuses.count(200)}" in counted


@pytest.mark.e2e
def test_a_rate_limit_is_one_that_the_client_waits_for(serve: Any, folder: Path) -> None:
    server = serve("--rate", "5")
    endpoint = Endpoint(Service(url=server.url), tuple(map(str, range(10))))
    for _ in range(2):
        assert endpoint(PIXELS).shape == (5, 10)
    counted = urllib3.PoolManager().request("GET", server.url.partition("/v2/")[0] + "/metrics").data.decode()
    assert 'undistill_requests_total{status="429"} 1.0' in counted
    port = server.url.split(":")[2].partition("/")[0]
    taken = [sys.executable, "-m", "undistill", "serve", str(folder), "--port", port]
    done = subprocess.run(taken, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot listen at 127.0.0.1" in done.stderr
