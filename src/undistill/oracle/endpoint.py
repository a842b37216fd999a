"""Victims behind HTTP: the Open Inference Protocol v2, and any other service by a template of its requests.

An endpoint is asked one request at a time. What certainly was not computed (no connection, 429, 503) is asked again after
a while; a response that was lost on its way is not, for it may have been paid for.

Legend: N images, C channels or classes, H height, W width.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, unquote, urlsplit

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from undistill.errors import GO_ON, RunError, UsageError

if TYPE_CHECKING:
    import urllib3

ONNX = ".onnx"
SUFFIXES = (".yaml", ".yml", ONNX)
DTYPES = {
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""Data types of the protocol, but for text (BYTES)."""
BINARY = "binary_tensor_data"
"""The extension of servers that take and give tensors as bytes behind the JSON."""
LENGTH = "Inference-Header-Content-Length"
LATER = (429, 503)
"""A service that says so has not answered: it can be asked again."""
LONGEST = 300
"""Seconds that a service may ask to be left alone."""
SLOWEST = 10
"""How many times its `timeout` a whole response may take."""
LARGEST = 256 * 2**20
"""Bytes of a response that are read."""
VARIABLE = re.compile(r"\$\{(\w+)\}")
SECRET = re.compile("auth|key|token|secret|cookie", re.IGNORECASE)
"""Headers that nobody else should read."""
LOCAL = ("localhost", "127.0.0.1", "::1")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Pixels(_Record):
    """How the service wants pixels; what is None is read from the metadata of a v2 service.

    Floats are scaled to `range` (black, white), then normalized by `mean` and `std` of each channel.
    """

    name: str | None = None
    layout: Literal["NCHW", "NHWC", "flat"] | None = None
    datatype: str | None = None
    range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @field_validator("datatype")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in DTYPES:
            raise ValueError(f"no data type of pixels: {value}; there are {', '.join(DTYPES)}")
        return value

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """N × C × H × W bytes as the service wants them."""
        dtype = np.dtype(DTYPES[self.datatype or "FP32"])
        black, white = self.range or ((0.0, 1.0) if dtype.kind == "f" else (0.0, 255.0))
        values: NDArray[Any] = pixels
        if dtype != np.uint8 or (black, white) != (0.0, 255.0) or self.mean or self.std:
            values = pixels.astype(np.float64) / 255 * (white - black) + black
            for moments, change in ((self.mean, np.subtract), (self.std, np.divide)):
                if moments is not None:
                    if len(moments) not in (1, pixels.shape[1]) or (change is np.divide and 0.0 in moments):
                        raise UsageError(f"{moments} are no mean or std of {pixels.shape[1]} channels")
                    values = change(values, np.asarray(moments).reshape(1, -1, 1, 1))
            if dtype.kind != "f":
                values, limits = np.rint(values), np.iinfo(dtype)
                if len(values) and (values.min() < limits.min or values.max() > limits.max):
                    raise UsageError(
                        f"pixels from {values.min():g} to {values.max():g} do not fit {self.datatype}: give their range"
                    )
            values = values.astype(dtype)
        if self.layout == "NHWC":
            values = values.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(values.reshape(len(values), -1) if self.layout == "flat" else values)


class Service(_Record):
    """An endpoint and how to ask it; `${NAME}` in `url` and `headers` stands for an environment variable.

    `file` instead of `url` is an ONNX model, of which only `input` and `output` count.

    Without `body` it speaks the Open Inference Protocol v2, and `output` names the output (or two: classes, probabilities). With
    `body`, a template of the JSON that is posted, `output` is a JMESPath expression for the scores or labels in what comes back.
    In `body`, `$images` stands for a list of `image`, one for each image; in `image`, `$pixels` stands for nested lists of numbers
    and `$png` for a PNG in base64. With `batch: 1` these two may stand in `body` itself, and `body: $png` posts the file.
    """

    url: str = ""
    file: Path | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    batch: int = Field(32, ge=1, le=4096)
    rate: float | None = Field(None, gt=0)
    limit: int | None = Field(None, ge=1)
    price: float | None = Field(None, gt=0)
    spend: float | None = Field(None, gt=0)
    timeout: float = Field(30.0, gt=0)
    retries: int = Field(5, ge=0, le=20)
    input: Pixels = Pixels()
    output: str | tuple[str, str] | None = None
    body: Any = None
    image: Any = "$pixels"
    ca: Path | None = None

    @property
    def most(self) -> int | None:
        """How many images it may be asked about in all; None for any number. `spend` buys them at `price` per 1,000."""
        counts = [] if self.limit is None else [self.limit]
        if self.spend is not None and self.price is not None:
            counts.append(int(self.spend / self.price * 1000 + 1e-9))
        return min(counts, default=None)

    def filled(self, text: str) -> str:
        """A text with the values of its variables; UsageError for one that is not set."""

        def value(match: re.Match[str]) -> str:
            if match[1] not in os.environ:
                raise UsageError(
                    f"the environment variable {match[1]}, which the endpoint {self.url} needs, is not set"
                )
            found = os.environ[match[1]]
            if not (found.isascii() and found.isprintable()):
                raise UsageError(
                    f"the environment variable {match[1]} holds a line break or another sign that no header has"
                )
            return found

        return VARIABLE.sub(value, text)

    def masked(self, text: str) -> str:
        """A text in which no value of a variable is left."""
        for name in {match[1] for each in (self.url, *self.headers.values()) for match in VARIABLE.finditer(each)}:
            secret = os.environ.get(name, "")
            for form in {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], secret.replace("/", "\\/")} - {""}:
                text = text.replace(form, f"${{{name}}}")
        return text


def is_endpoint(model: str) -> bool:
    """Whether a MODEL is an URL, a file that describes a service, or an ONNX file."""
    path = Path(model).expanduser()
    return model.startswith(("http://", "https://")) or (path.suffix.lower() in SUFFIXES and not path.is_dir())


def read_service(model: str) -> Service:
    """The service that an URL or a YAML file names.

    Raises:
        UsageError: no such file, another key, a password in the URL, a secret that would travel in clear.
    """
    if model.startswith(("http://", "https://")):
        values: Any = {"url": model}
    elif Path(model).suffix.lower() == ONNX:
        values = {"file": Path(model).expanduser()}
    else:
        path = Path(model).expanduser()
        if not path.is_file():
            raise UsageError(f"there is no endpoint file at {path}")
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            raise UsageError(f"{path} is no YAML file: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(values, dict):
            raise UsageError(f"{path} describes no endpoint: it needs `url: https://…` at least")
        if isinstance(values.get("file"), str):
            values["file"] = path.parent / Path(values["file"]).expanduser()
    try:
        service = Service.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        known = f"; there are {', '.join(Service.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise UsageError(f"{model}: {place}: {first['msg']}{known}") from error
    _check(service, model)
    return service


def _check(service: Service, model: str) -> None:
    """UsageError for what cannot be asked, or would give a secret away."""
    if service.file is None:
        _check_url(service, model)
    elif service.url or service.body is not None:
        raise UsageError(f"{model}: a file is asked without url and body")
    elif not service.file.is_file():
        raise UsageError(f"there is no ONNX model at {service.file}")
    if service.body is not None:
        _check_body(service, model)


def _check_url(service: Service, model: str) -> None:
    try:
        parts = urlsplit(VARIABLE.sub("x", service.url))
        port_is_sound = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_sound = urlsplit(""), False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_sound:
        raise UsageError(f"{model}: the url is none of http:// or https://")
    if parts.username or parts.password:
        raise UsageError(
            "an endpoint's URL holds a password: put it into a header, as ${VARIABLE}, in an endpoint file"
        )
    if service.body is None and "/v2/models/" not in parts.path:
        raise UsageError(
            f"{model} is no endpoint of the Open Inference Protocol, https://host/v2/models/NAME; describe any other service in an "
            "endpoint file, with `body` and `output`"
        )
    if service.body is None and (parts.query or parts.fragment):
        raise UsageError(f"{model.partition('?')[0]}: the URL of a model ends with its name; put a key into a header")
    secret = any(VARIABLE.search(each) for each in (service.url, *service.headers.values()))
    secret = secret or any(SECRET.search(name) for name in service.headers)
    if secret and parts.scheme == "http" and parts.hostname not in LOCAL:
        raise UsageError(f"{model}: its secrets would travel unencrypted; use https")
    if (service.spend is None) != (service.price is None):
        raise UsageError(f"{model}: spend and price (of 1,000 images) go together")


def _check_body(service: Service, model: str) -> None:
    if service.output is None or isinstance(service.output, tuple):
        raise UsageError(f"{model}: output says where scores or labels are, such as predictions[*].scores")
    _expression(service.output)
    texts, inner = list(_leaves(service.body)), list(_leaves(service.image))
    for text in (*texts, *inner):
        if any(name in text and text != name for name in ("$images", "$pixels")):
            raise UsageError(
                f"{model}: {text[:60]!r} is a text; $images and $pixels stand alone, only $png may be within one"
            )
    shown = any("$png" in text or text == "$pixels" for text in (inner if "$images" in texts else texts))
    if not shown:
        raise UsageError(f"{model}: no image is sent: body or image needs $pixels or $png")
    if service.batch > 1 and "$images" not in texts:
        raise UsageError(f"{model}: its body has no list of $images: set batch: 1 and use $pixels or $png")


def _expression(text: str) -> Any:
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        return jmespath.compile(text)
    except JMESPathError as error:
        raise UsageError(f"output is no JMESPath expression: {' '.join(str(error).split())}") from error


class Endpoint:
    """Asks a service: a function of uint8 N × C × H × W pixels, of at most `service.batch` images at a time."""

    def __init__(self, service: Service, class_names: tuple[str, ...]) -> None:
        """`class_names`: in the order of the outputs, for services that answer with names."""
        self.service = service
        self._numbers = {name: number for number, name in enumerate(class_names)}

    @property
    def name(self) -> str:
        """What it is called: host and path, without what is variable."""
        parts = urlsplit(self.service.url)
        return parts.netloc + parts.path.rstrip("/").removesuffix("/infer").replace("/v2/models", "")

    def __call__(self, pixels: NDArray[np.uint8]) -> Any:
        """What it answers about these images: numbers, or class numbers.

        Raises:
            RunError: no response, or another than was asked for; a v2 service that does not say what it takes.
            UsageError: a variable that is not set.
        """
        if self.service.body is not None:
            return self._templated(pixels)
        return self._inferred(pixels)

    # -- any service ---------------------------------------------------------------------------------------------------

    def _templated(self, pixels: NDArray[np.uint8]) -> Any:
        service = self.service
        if service.body == "$png":
            said = self._request("POST", service.url, _png(pixels[0]), {"Content-Type": "image/png"})[0]
        else:
            values = service.input.of(pixels)
            known = [
                {"$pixels": values[row].tolist, "$png": lambda row=row: _png64(pixels[row])}
                for row in range(len(pixels))
            ]
            images = [_fill(service.image, each) for each in known]
            body = _fill(service.body, {**known[0], "$images": lambda: images})
            said = self._request("POST", service.url, json.dumps(body).encode(), {"Content-Type": "application/json"})[
                0
            ]
        found = _expression(str(service.output)).search(_parsed(said, self.name))
        if found is None:
            raise RunError(f"{self.name} answered without {service.output}: {self._start_of(said)}")
        found = self._numbered(found)
        single = service.batch == 1 and not (isinstance(found, list) and (len(found) == 1 or _is_pair(found)))
        return [found] if single else found

    def _numbered(self, value: Any) -> Any:
        return numbered(value, self._numbers, self)

    # -- the Open Inference Protocol v2 --------------------------------------------------------------------------------

    def _inferred(self, pixels: NDArray[np.uint8]) -> Any:
        asked = self._asked(pixels.shape)
        values = asked.of(pixels)
        about: dict[str, Any] = {
            "name": asked.name or "input-0",
            "shape": list(values.shape),
            "datatype": asked.datatype,
        }
        output = self._output
        names = output if isinstance(output, tuple) else (output,)
        wanted = [{"name": name} for name in names if name is not None]
        headers, tail = {"Content-Type": "application/json"}, b""
        if self._binary:
            tail = values.tobytes()
            about["parameters"] = {"binary_data_size": len(tail)}
            for each in wanted:
                each["parameters"] = {"binary_data": True}  # type: ignore[assignment]
        else:
            about["data"] = values.ravel().tolist()
        request: dict[str, Any] = {"inputs": [about]}
        if wanted:
            request["outputs"] = wanted
        elif self._binary:
            request["parameters"] = {"binary_data_output": True}
        head = json.dumps(request).encode()
        if self._binary:
            headers = {"Content-Type": "application/octet-stream", LENGTH: str(len(head))}
        said, told = self._request("POST", f"{self._model}/infer", head + tail, headers)
        outputs = self._outputs(said, told)
        if all(name is not None for name in names):
            missing = [str(name) for name in names if name not in outputs]
            if missing:
                raise RunError(f"{self.name} answered with {', '.join(outputs) or 'nothing'}, not with {missing[0]}")
            found = [outputs[str(name)] for name in names]
            return found[0] if len(found) == 1 else tuple(found)
        if len(outputs) != 1:
            raise RunError(
                f"{self.name} answers with {', '.join(outputs) or 'nothing'}: name one as `output` in an endpoint file"
            )
        return next(iter(outputs.values()))

    @cached_property
    def _output(self) -> str | tuple[str, str] | None:
        """The output to ask for: as the file says, else the only one of the metadata."""
        known = self._metadata.get("outputs") or [] if self.service.output is None else []
        return str(known[0].get("name")) if len(known) == 1 else self.service.output

    @property
    def _model(self) -> str:
        return self.service.url.rstrip("/").removesuffix("/infer")

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        said = _parsed(self._request("GET", self._model)[0], self.name)
        told = said if isinstance(said, dict) else {}
        lists = {key: told.get(key) for key in ("inputs", "outputs")}
        return {
            key: [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
            for key, value in lists.items()
        }

    @cached_property
    def _binary(self) -> bool:
        """Whether the server takes tensors as bytes."""
        root = self._model.partition("/v2/models/")[0]
        try:
            said = _parsed(self._request("GET", f"{root}/v2")[0], self.name)
        except RunError:  # a gateway that lets nothing but the model through
            return False
        return isinstance(said, dict) and BINARY in (said.get("extensions") or ())

    def _asked(self, shape: tuple[int, ...]) -> Pixels:
        """The pixels it takes: as the file says, else as its metadata do."""
        known = self.service.input
        if known.name and known.layout and known.datatype:
            return known
        return completed(known, self._metadata.get("inputs") or [], shape, self.name)

    def _outputs(self, said: bytes, told: Mapping[str, str]) -> dict[str, Any]:
        """The tensors of a response by name."""
        size = told.get(LENGTH)
        cut = int(size) if size is not None and size.isdigit() else len(said)
        content, at, found = _parsed(said[:cut], self.name), cut, {}
        try:
            for each in content["outputs"]:
                length = (each.get("parameters") or {}).get("binary_data_size")
                raw = None if length is None else said[at : at + length]
                at += length or 0
                found[str(each["name"])] = self._tensor(each, raw)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error) as error:
            raise RunError(f"{self.name} answered with no tensors of the protocol: {self._start_of(said)}") from error
        return found

    def _tensor(self, about: dict[str, Any], raw: bytes | None) -> Any:
        shape = [int(side) for side in about["shape"]]
        if about["datatype"] == "BYTES":
            texts = _flat(about["data"]) if raw is None else [text.decode() for text in _texts(raw)]
            return np.array(self._numbered([str(text) for text in texts]), np.int64).reshape(shape)
        dtype = np.dtype(DTYPES[about["datatype"]])
        values = np.asarray(about["data"]).astype(dtype) if raw is None else np.frombuffer(raw, dtype)
        return values.reshape(shape)

    # -- requests ------------------------------------------------------------------------------------------------------

    @cached_property
    def _pool(self) -> urllib3.PoolManager:
        from urllib.request import getproxies, proxy_bypass

        import urllib3

        service, parts = self.service, urlsplit(self.service.url)
        again = urllib3.Retry(
            total=service.retries,
            read=False,
            other=0,
            redirect=False,
            allowed_methods=None,
            status_forcelist=LATER,
            backoff_factor=0.5,
            backoff_max=60,
            retry_after_max=LONGEST,
            raise_on_status=False,
        )
        options: dict[str, Any] = {"retries": again, "timeout": service.timeout}
        if parts.scheme == "https":
            options |= {"cert_reqs": "CERT_REQUIRED", "ca_certs": None if service.ca is None else str(service.ca)}
        direct = parts.hostname in LOCAL or proxy_bypass(parts.netloc)
        proxy = None if direct else getproxies().get(parts.scheme)
        if not proxy:
            return urllib3.PoolManager(**options)
        auth = urlsplit(proxy)
        user = f"{unquote(auth.username)}:{unquote(auth.password or '')}" if auth.username else None
        return urllib3.ProxyManager(proxy, proxy_headers=urllib3.make_headers(proxy_basic_auth=user), **options)

    def _request(
        self, method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, Mapping[str, str]]:
        """(content, headers) of a response; RunError where there is none, without anything secret."""
        import urllib3

        filled = {name: self.service.filled(value) for name, value in self.service.headers.items()}
        response = None
        try:
            response = self._pool.request(
                method,
                self.service.filled(url),
                body=body,
                headers=urllib3.HTTPHeaderDict({"Accept-Encoding": "identity", **(headers or {})}) | filled,
                preload_content=False,
            )
            said = self._read(response)
            response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise RunError(f"no response from {self.name}: {self._reason(error)}; {GO_ON}") from error
        finally:
            if response is not None:
                response.close()  # half a response would be the beginning of the next one
        if response.status in LATER:
            raise RunError(
                f"{self.name} is busy ({response.status}), also after {self.service.retries} retries; {GO_ON}"
            )
        if 300 <= response.status < 400:
            raise RunError(
                f"{self.name} redirects to {self.service.masked(str(response.headers.get('Location')))[:200]}: use that URL"
            )
        if response.status != 200:
            raise RunError(f"{self.name} refused with {response.status}: {self._start_of(said)}")
        return said, response.headers

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        """The content, as far as it is no more than may be and comes in time: a drop now and then is no response."""
        said, until = bytearray(), time.monotonic() + SLOWEST * self.service.timeout
        while part := response.read1(2**16, decode_content=False):
            said += part
            if len(said) > LARGEST:
                raise RunError(f"{self.name} answered with more than {LARGEST // 2**20} MB")
            if time.monotonic() > until:
                raise RunError(
                    f"{self.name} did not end its response within {SLOWEST * self.service.timeout:g} s; {GO_ON}"
                )
        return bytes(said)

    def _reason(self, error: Exception) -> str:
        """Why there was no response, in the words of this side: a library's own may quote a secret."""
        from urllib3 import exceptions as kinds

        reason = getattr(error, "reason", None) or error
        if isinstance(reason, kinds.SSLError):
            return f"its certificate is not valid ({self.service.masked(' '.join(str(reason).split()))[:160]})"
        for kind, words in (
            (kinds.NameResolutionError, "its host is not known"),
            (kinds.NewConnectionError, "nothing listens there"),
            (kinds.ConnectTimeoutError, f"no connection within {self.service.timeout:g} s"),
            (
                kinds.ReadTimeoutError,
                f"nothing came within {self.service.timeout:g} s; the request may have been counted",
            ),
            (kinds.ProxyError, "the proxy refused"),
        ):
            if isinstance(reason, kind):
                return words
        return "the connection broke; the request may have been counted"

    def _start_of(self, said: bytes) -> str:
        return self.service.masked(" ".join(said[:20_000].decode("utf-8", "replace").split()))[:200] or "nothing"


def numbered(value: Any, numbers: Mapping[str, int], by: Any) -> Any:
    """Values whose class names, in lists of any depth, are numbers; RunError for a name that the data do not have."""
    if isinstance(value, list):
        return [numbered(each, numbers, by) for each in value]
    if not isinstance(value, str):
        return value
    if value not in numbers:
        shown = by.service.masked(value)[:40]
        raise RunError(f"{by.name} answered with a class {shown!r} that the data do not have")
    return numbers[value]


def completed(known: Pixels, inputs: Sequence[Mapping[str, Any]], shape: tuple[int, ...], name: str) -> Pixels:
    """What a model takes: what is `known`, and for the rest what its `inputs` (name, datatype, shape) say."""
    if len(inputs) > 1 and known.name is None:
        raise RunError(f"{name} takes {len(inputs)} inputs: name that of the pixels, `input.name` of an endpoint file")
    first: Mapping[str, Any] = next((each for each in inputs if known.name in (None, each.get("name"))), {})
    told = {
        "name": known.name or first.get("name"),
        "layout": known.layout or _layout(first.get("shape"), shape),
        "datatype": known.datatype or first.get("datatype"),
    }
    lacking = [key for key in ("layout", "datatype") if told[key] is None]
    lacking += ["datatype"] if told["datatype"] not in (None, *DTYPES) else []
    if lacking:
        takes = (
            f"takes {first.get('datatype')} of shape {first.get('shape')}" if first else "does not tell what it takes"
        )
        size = " × ".join(map(str, shape[1:]))
        raise RunError(f"{name} {takes}, the images are {size}: say `input: {{{lacking[0]}: …}}` in an endpoint file")
    return known.model_copy(update=told)


def _layout(told: Any, shape: tuple[int, ...]) -> str | None:
    """How a tensor of a stated shape holds images of N × C × H × W."""
    _, channels, height, width = shape
    if not isinstance(told, list | tuple):
        return None
    try:
        sides = [None if int(side) < 0 else int(side) for side in told]
    except (TypeError, ValueError, OverflowError):
        return None
    if all(side is None for side in sides[1:]) and len(sides) > 1:
        return None

    def fits(*wanted: int) -> bool:
        pairs = zip(sides[1:], wanted, strict=True) if len(sides) == len(wanted) + 1 else [(0, 1)]
        return all(side in (None, want) for side, want in pairs)

    if fits(channels, height, width):
        return "NCHW"
    if fits(height, width, channels):
        return "NHWC"
    return "flat" if fits(channels * height * width) else None


def _parsed(said: bytes, name: str) -> Any:
    try:
        return json.loads(said)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{name} answered with no JSON") from error


def _fill(template: Any, values: Mapping[str, Any]) -> Any:
    """A template with the values of its placeholders."""
    if isinstance(template, dict):
        return {key: _fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [_fill(value, values) for value in template]
    if not isinstance(template, str):
        return template
    if template in values:
        return values[template]()
    return template.replace("$png", values["$png"]()) if "$png" in template and "$png" in values else template


def _leaves(template: Any) -> Iterator[str]:
    """The texts of a template."""
    if isinstance(template, str):
        yield template
    for each in template.values() if isinstance(template, dict) else template if isinstance(template, list) else ():
        yield from _leaves(each)


def _is_pair(found: list[Any]) -> bool:
    """Whether this is (classes, probabilities) of one image, each a list in a list."""
    return len(found) == 2 and all(
        isinstance(each, list) and len(each) == 1 and isinstance(each[0], list) for each in found
    )


def _flat(values: Any) -> list[Any]:
    return [each for value in values for each in (_flat(value) if isinstance(value, list) else [value])]


def _texts(raw: bytes) -> list[bytes]:
    """Texts out of bytes: each behind its length in 4 bytes."""
    found, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _png(image: NDArray[np.uint8]) -> bytes:
    """A C × H × W image as a PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def _png64(image: NDArray[np.uint8]) -> str:
    return base64.b64encode(_png(image)).decode()
