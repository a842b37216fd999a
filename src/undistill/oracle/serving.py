"""A victim behind HTTP, as its users would have it: the Open Inference Protocol v2, output defenses in front, limits, metrics.

One request is computed at a time. Others wait, up to `QUEUE`; more are told to come again, so that a server that is asked too much
answers as fast as ever and drops nothing that it took.

Legend: N images, C channels or classes, H height, W width, K shown classes.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undistill.errors import UndistillError, UsageError
from undistill.oracle.endpoint import BINARY, DTYPES, LENGTH
from undistill.oracle.oracle import Oracle
from undistill.oracle.victim import Victim
from undistill.threat_model import Access, ThreatModel

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

INPUT = "pixels"
QUEUE = 64
"""Requests that wait; the next one is told to come again."""
PATIENCE = 20
"""Seconds in which a request's content must have come."""
NUMBER, HEAD = 24, 65_536
"""Bytes that a number of a request's JSON, and the rest of it, may have."""
TAKES = ("UINT8", "FP32")
PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


class _Wrong(Exception):
    """A request that cannot be answered: its status and why."""

    def __init__(self, status: int, why: str, later: int | None = None) -> None:
        super().__init__(why)
        self.status, self.later = status, later


@dataclass
class Bucket:
    """Lets through `rate` images a second, and up to a second's worth at once."""

    rate: float
    held: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.held = self.rate

    def wait(self, count: int, now: float) -> float:
        """Takes `count` images and returns 0, or takes none and returns the seconds until it could.

        More than a second's worth waits for a full bucket, which it then overdraws.
        """
        self.held = min(self.rate, self.held + (now - self.since) * self.rate)
        self.since = now
        lacking = min(count, self.rate) - self.held
        if lacking > 1e-9:
            return lacking / self.rate
        self.held -= count
        return 0.0


@dataclass(frozen=True)
class Asked:
    """A request: N × C × H × W float images in [0, 1], whether the response is to be binary, and the request's own id."""

    images_BCHW: Tensor
    binary: bool = False
    id: str | None = None


class Served:
    """A model as it is served: what a request is, what it is answered, how many there were.

    Args:
        victim: a network, with the output defenses in front of it.
        serving: what is shown: `probs`, `top5:2`, `top1`, `label`, `logits`.
        name: of the model, in its URL.
        batch: images of a request, at most.
        seed: of random defenses. A public one makes their noise predictable.

    Raises:
        UsageError: an output defense or a serving that does not fit.
    """

    def __init__(self, victim: Victim, serving: str, name: str, *, batch: int = 256, seed: int = 0) -> None:
        card = ThreatModel(data="unlabelled").served(serving)
        if card.access is Access.WEIGHTS:
            raise UsageError("a server gives no weights: --access probs, top5:2, top1, label or logits")
        self._door = partial(
            Oracle,
            victim.network,
            card.access,
            top_k=card.top or 5,
            digits=card.digits,
            behind=victim.behind,
            seed=seed,
        )
        self.oracle = self._door()
        self.name, self.batch = PLAIN.sub("-", name) or "model", batch
        self.device = next(victim.network.parameters(), torch.empty(0)).device
        config = victim.network.config
        self.shape = (config["in_channels"], config["image_size"], config["image_size"])
        self.classes = config["num_classes"]
        self.class_names = victim.class_names
        self.largest = batch * math.prod(self.shape) * NUMBER + HEAD
        self.output = "label" if self.oracle.access is Access.LABEL else self.oracle.access.label

    @property
    def metadata(self) -> dict[str, Any]:
        """Of the protocol's model metadata."""
        label = self.oracle.access is Access.LABEL
        about: dict[str, Any] = {"name": self.name, "versions": ["1"], "platform": "pytorch"}
        about["inputs"] = [{"name": INPUT, "datatype": TAKES[0], "shape": [-1, *self.shape]}]
        about["outputs"] = [
            {
                "name": self.output,
                "datatype": "INT64" if label else "FP32",
                "shape": [-1] if label else [-1, self.classes],
            }
        ]
        if self.class_names is not None:
            about["parameters"] = {"classes": list(self.class_names)}
        return about

    def asked(self, body: bytes, length: str | None) -> Asked:
        """What a request's body asks; `length` is that of its JSON, where binary tensors follow."""
        try:
            cut = len(body) if length is None else int(length)
            request = json.loads(body[:cut])
            (about,) = request["inputs"]
            datatype, shape = str(about["datatype"]), tuple(int(side) for side in about["shape"])
            self._check(datatype, shape)
            size = about.get("parameters", {}).get("binary_data_size")
            if size is None:
                pixels = _plain(np.asarray(about["data"]), datatype).reshape(shape)
            else:
                pixels = np.frombuffer(body[cut : cut + int(size)], DTYPES[datatype]).reshape(shape)
            outputs = request.get("outputs") or [{}]
            names = {str(each.get("name", self.output)) for each in outputs}
            binary = [part.get("parameters", {}) for part in (request, outputs[0])]
            answered = binary[0].get("binary_data_output") is True or binary[1].get("binary_data") is True
            number = None if request.get("id") is None else str(request["id"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise _Wrong(400, "it is no request of the Open Inference Protocol with one input") from error
        if names != {self.output}:
            raise _Wrong(400, f"its output is called {self.output}")
        if datatype == "FP32" and not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise _Wrong(400, "FP32 pixels are from 0 to 1")
        images_BCHW = torch.from_numpy(pixels.copy())
        return Asked(images_BCHW.float().div_(255) if datatype == "UINT8" else images_BCHW, answered, number)

    def _check(self, datatype: str, shape: tuple[int, ...]) -> None:
        if datatype not in TAKES or len(shape) != 4 or shape[1:] != self.shape:
            wanted = f"N × {' × '.join(map(str, self.shape))} of {' or '.join(TAKES)}"
            raise _Wrong(400, f"it takes {wanted}, not {list(shape)} of {datatype[:20]!a}")
        if not 1 <= shape[0] <= self.batch:
            raise _Wrong(400, f"it takes 1 to {self.batch} images a request, not {shape[0]}")

    def answer(self, asked: Asked) -> tuple[bytes, dict[str, str], int]:
        """(content, headers, N) of the response."""
        try:
            values = self.oracle.ask(asked.images_BCHW.to(self.device)).values.cpu().numpy()
            self.oracle.check()
        except UndistillError:
            # an oracle remembers outputs that were not finite; the next user has nothing to do with them
            self.oracle = self._door(queries=self.oracle.queries)
            raise
        values = values.astype(np.int64 if self.oracle.access is Access.LABEL else np.float32)
        datatype = "INT64" if values.dtype == np.int64 else "FP32"
        out: dict[str, Any] = {"name": self.output, "datatype": datatype, "shape": list(values.shape)}
        told = {"model_name": self.name, "model_version": "1", "outputs": [out]}
        if asked.id is not None:
            told["id"] = asked.id
        if not asked.binary:
            out["data"] = values.ravel().tolist()
            return json.dumps(told).encode(), {"Content-Type": "application/json"}, len(values)
        out["parameters"] = {"binary_data_size": values.nbytes}
        head = json.dumps(told).encode()
        return (
            head + values.tobytes(),
            {"Content-Type": "application/octet-stream", LENGTH: str(len(head))},
            len(values),
        )


def _plain(values: NDArray[Any], datatype: str) -> NDArray[Any]:
    """Numbers of a request's JSON in their data type."""
    if datatype == "UINT8" and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255):
        raise _Wrong(400, "UINT8 are whole numbers from 0 to 255")
    return values.astype(DTYPES[datatype])


def application(served: Served, *, rate: float | None = None) -> Starlette:
    """The server: the protocol's addresses for one model, and `/metrics` as Prometheus reads them.

    Args:
        served: the model.
        rate: images a second that are let through, all users together.
    """
    from starlette.applications import Starlette
    from starlette.routing import Route

    site, model = _Site(served, rate), "/v2/models/{name}"
    routes = [Route("/v2", site.server), Route("/metrics", site.metrics)]
    routes += [Route(f"/v2/health/{state}", site.live) for state in ("live", "ready")]
    for place in (model, model + "/versions/{version}"):
        routes += [Route(place, site.about), Route(f"{place}/ready", site.about)]
        routes.append(Route(f"{place}/infer", site.infer, methods=["POST"]))
    return Starlette(routes=routes)


class _Site:
    """What is answered at each address, and how often it was."""

    def __init__(self, served: Served, rate: float | None) -> None:
        import anyio
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.served, self.registry, self.one = served, CollectorRegistry(), anyio.CapacityLimiter(1)
        self.bucket, self.rate, self.count = None if rate is None else Bucket(rate), rate, 0
        told: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("undistill_requests", "Requests for inference, by status.", ["status"], **told)
        self.images = Counter("undistill_images", "Images that were answered.", **told)
        self.seconds = Histogram("undistill_request_seconds", "From a request to its response.", **told)
        self.waiting = Gauge("undistill_waiting", "Requests that wait or are computed.", **told)

    async def infer(self, request: Request) -> Response:
        """What the model answers, or an error as the protocol has it."""
        from starlette.responses import JSONResponse, Response

        since = time.monotonic()
        response: Response
        try:
            self._check(request)
            content, headers, size = await self._answered(request)
            response = Response(content, headers=headers)
            self.images.inc(size)
            self.seconds.observe(time.monotonic() - since)
        except _Wrong as error:
            later = {} if error.later is None else {"Retry-After": str(error.later)}
            response = JSONResponse({"error": str(error)}, error.status, later)
        except UndistillError as error:  # outputs that are not finite
            response = JSONResponse({"error": str(error)}, 500)
        self.requests.labels(response.status_code).inc()
        return response

    async def _answered(self, request: Request) -> tuple[bytes, dict[str, str], int]:
        import anyio

        full = self.count > QUEUE
        self.count += 1
        self.waiting.set(self.count)
        try:
            body = await self._body(request, keep=not full)
            if full:
                raise _Wrong(503, "too many requests wait", 1)
            length = request.headers.get(LENGTH)
            return await anyio.to_thread.run_sync(self._computed, bytes(body), length, limiter=self.one)
        finally:
            self.count -= 1
            self.waiting.set(self.count)

    async def _body(self, request: Request, *, keep: bool) -> bytes:
        """A request's content, read whole in any case: a connection is of no more use with half a request in it."""
        import anyio
        from starlette.requests import ClientDisconnect

        body, size = bytearray(), 0
        try:
            with anyio.fail_after(PATIENCE):
                async for part in request.stream():
                    size += len(part)
                    body += part if keep else b""
                    if size > self.served.largest:
                        raise _Wrong(413, f"a request has at most {self.served.largest:,} bytes")
        except TimeoutError as error:
            raise _Wrong(408, f"the request did not come within {PATIENCE} s") from error
        except ClientDisconnect as error:
            raise _Wrong(499, "the client is gone") from error
        return bytes(body)

    def _computed(self, body: bytes, length: str | None) -> tuple[bytes, dict[str, str], int]:
        asked = self.served.asked(body, length)
        if self.bucket is not None and (pause := self.bucket.wait(len(asked.images_BCHW), time.monotonic())):
            raise _Wrong(429, f"more than {self.rate:g} images a second", max(1, math.ceil(pause)))
        return self.served.answer(asked)

    def _check(self, request: Request) -> None:
        if request.path_params["name"] != self.served.name or request.path_params.get("version", "1") != "1":
            raise _Wrong(404, f"the model here is {self.served.name}, version 1")

    async def about(self, request: Request) -> Response:
        """The model's metadata, and whether it is ready."""
        from starlette.responses import JSONResponse

        try:
            self._check(request)
        except _Wrong as error:
            return JSONResponse({"error": str(error)}, error.status)
        ready = request.url.path.endswith("/ready")
        return JSONResponse({"name": self.served.name, "ready": True} if ready else self.served.metadata)

    async def server(self, request: Request) -> Response:
        """The server's metadata."""
        from starlette.responses import JSONResponse

        return JSONResponse({"name": "undistill", "version": version("undistill"), "extensions": [BINARY]})

    async def live(self, request: Request) -> Response:
        """That the server is there."""
        from starlette.responses import JSONResponse

        return JSONResponse({request.url.path.rpartition("/")[2]: True})

    async def metrics(self, request: Request) -> Response:
        """Counters as Prometheus reads them."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
        from starlette.responses import Response

        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)


def run(app: Starlette, host: str, port: int, ready: Any) -> None:
    """Serve until a signal comes. `ready` is called with the port, which the system chooses for 0.

    Raises:
        UsageError: an address that cannot be listened at.
    """
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named TCP, for only then asyncio turns off the delay of small packets (40 ms a response)
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(1024)  # connections wait from now on
        except (OSError, OverflowError) as error:
            raise UsageError(f"cannot listen at {host}:{port}: {getattr(error, 'strerror', None) or error}") from error
        ready(listening.getsockname()[1])
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=30)
        with contextlib.suppress(KeyboardInterrupt):  # it ends in order first, then tells what it heard
            uvicorn.Server(config).run(sockets=[listening])
