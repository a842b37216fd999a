"""Data sets of the Hugging Face hub: fetched once, pinned to what was fetched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from undistill.data.opening import Progress
from undistill.errors import RunError
from undistill.files import cache_root, read_json, write_json

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""`owner/name`."""


def download(hub_id: str, progress: Progress) -> tuple[Path, str]:
    """(folder, revision) of the hub's files of a data set; fetched once, then found without a network.

    Raises:
        RunError: it cannot be had; the sentence says whether the network, the id or the permission is missing.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    marker = _marker(hub_id)
    kept = _read_marker(marker)
    if kept is not None:
        return kept
    progress(f"fetching {hub_id} from the hub", 0, None)
    try:
        folder = Path(snapshot_download(hub_id, repo_type="dataset"))
    except GatedRepoError as error:
        raise RunError(
            f"{hub_id} is gated: accept its terms on the hub and log in with `hf auth login`, or give a local copy with --data-dir"
        ) from error
    except RepositoryNotFoundError as error:
        raise RunError(
            f"the hub has no data set {hub_id!r}, or it is private: check the id, or log in with `hf auth login`"
        ) from error
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise RunError(
            f"cannot fetch {hub_id} from the hub ({type(error).__name__}); give a local copy with --data-dir"
        ) from error
    write_json(marker, {"folder": str(folder), "revision": folder.name})  # behind a whole download only
    return folder, folder.name


def revision(hub_id: str) -> str:
    """The start of the revision that was fetched; empty where none was."""
    kept = _read_marker(_marker(hub_id))
    return "" if kept is None else kept[1][:12]


def _marker(hub_id: str) -> Path:
    return cache_root() / "hub" / f"{hub_id.replace('/', '--')}.json"


def _read_marker(marker: Path) -> tuple[Path, str] | None:
    if not marker.exists():
        return None
    try:
        values: Any = read_json(marker)
        folder, revision = Path(values["folder"]), str(values["revision"])
    except (RunError, KeyError, TypeError):
        return None
    return (folder, revision) if folder.is_dir() else None
