"""A served model under load: requests/s and latency of one client, of as many as it can serve, and of ten times as many.

    python benchmarks/serve.py MODEL      # a run or model folder; with it `undistill serve MODEL` is started on this machine

Each client sends one request after another, and after 503 waits as long as it is told. Latencies are of the requests that were
taken; one is lost if it was never answered with 200.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import urllib3

BATCH = 8
"""Images of a request."""
SECONDS = 8.0
AT_ONCE = 64
"""Clients that fill the queue; ten times as many are an overload."""


@dataclass
class Count:
    """What clients saw."""

    seconds: list[float] = field(default_factory=list)
    busy: int = 0
    lost: int = 0


def client(url: str, body: bytes, headers: dict[str, str], until: float, count: Count) -> None:
    """Send requests until then."""
    pool = urllib3.PoolManager(retries=False, timeout=60)
    while time.monotonic() < until:
        status = 503
        while status == 503:
            since = time.monotonic()
            try:
                response = pool.request("POST", url, body=body, headers=headers)
                status = response.status
            except urllib3.exceptions.HTTPError:
                status = 0
            if status == 503:
                count.busy += 1
                time.sleep(float(response.headers["Retry-After"]))
        count.seconds.append(time.monotonic() - since)
        count.lost += status != 200


def measure(url: str, body: bytes, headers: dict[str, str], clients: int) -> dict[str, Any]:
    """Rates and latencies with so many clients."""
    count, until = Count(), time.monotonic() + SECONDS
    threads = [threading.Thread(target=client, args=(url, body, headers, until, count)) for _ in range(clients)]
    since = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.monotonic() - since
    p50, p99 = np.percentile(count.seconds, [50, 99]) * 1000
    return {
        "clients": clients,
        "requests_a_second": round(len(count.seconds) / spent, 1),
        "images_a_second": round(BATCH * len(count.seconds) / spent, 1),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
        "told_to_come_again": count.busy,
        "lost": count.lost,
    }


def main() -> None:
    """Start a server, load it, print a line of JSON for each load."""
    command = [sys.executable, "-m", "undistill", "serve", sys.argv[1], "--port", "0", *sys.argv[2:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        shape = urllib3.request("GET", url).json()["inputs"][0]["shape"]
        pixels = np.random.default_rng(0).integers(0, 256, (BATCH, *shape[1:]), dtype=np.uint8)
        about = {
            "name": "pixels",
            "datatype": "UINT8",
            "shape": list(pixels.shape),
            "parameters": {"binary_data_size": pixels.nbytes},
        }
        head = json.dumps({"inputs": [about], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        for clients in (1, AT_ONCE, 10 * AT_ONCE):
            print(json.dumps(measure(f"{url}/infer", head + pixels.tobytes(), headers, clients)), flush=True)
        process.terminate()


if __name__ == "__main__":
    main()
