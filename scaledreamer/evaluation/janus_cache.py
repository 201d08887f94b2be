"""Cache of Janus tests in JSON files: beside the encoder, or in the user's cache folder.

Making a test takes minutes; it depends only on the encoder, the renderer and this code. A file that cannot be
read, or belongs to something else, is ignored, and the test is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from scaledreamer import rendering
from scaledreamer.evaluation.faces import FaceProbe
from scaledreamer.evaluation.ground_truth import Observer
from scaledreamer.evaluation.janus import SIDE_AZIMUTHS_DEG, JanusTest, make_janus_test
from scaledreamer.files import replace_text
from scaledreamer.home import expand_home

FORMAT = 1
"""Increase this when the measurement changes, including the tinyworld's shapes."""
FILE = "janus_test.json"
"""In an encoder's folder: its test for the default renderer."""


def find_or_make_test(encoder: Any, observer: Observer, num_objects: int, *, shipped: Path) -> JanusTest:
    """The test from the shipped file or from the user's cache, or a new one, which is then cached.

    For an encoder without a `fingerprint`, a new test is made each time.

    Args:
        num_objects: minimum number of objects of each sort.
        shipped: the file that is tried first.
    """
    fingerprint: str | None = getattr(encoder, "fingerprint", None)
    folder = cache_folder()
    if fingerprint is None:
        return make_janus_test(encoder, observer, num_objects=num_objects)
    key = test_key(fingerprint, observer)
    cached = [] if folder is None else [folder / f"{key[:32]}.json"]
    for path in [shipped, *cached]:
        test = load_test(path, key, num_objects)
        if test is not None:
            return test
    print("making the Janus test for this CLIP and renderer; it takes minutes, once", flush=True)
    test = make_janus_test(encoder, observer, num_objects=num_objects)
    for path in cached:
        with contextlib.suppress(OSError):  # without write permission it is not cached
            save_test(path, key, test)
    return test


def test_key(encoder_hash: str, observer: Observer) -> str:
    """Hash of everything a test depends on; of the renderer's settings, those that are not the default."""
    usual = rendering.make().for_scores().settings()
    differing = {
        name: value
        for name, value in observer.renderer.settings().items()
        if name != "memory_gib" and value != usual.get(name)
    }
    parts = [FORMAT, encoder_hash, differing, observer.image_size, SIDE_AZIMUTHS_DEG]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cache_folder() -> Path | None:
    """The user's cache folder: in XDG_CACHE_HOME or the home folder; None if there is neither."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "scaledreamer" / "janus"
    try:
        return Path(expand_home("~/.cache")) / "scaledreamer" / "janus"
    except ValueError:
        return None


def load_test(path: Path, key: str, num_objects: int) -> JanusTest | None:
    """The test in a file, if it is intact, has this key and was made with at least this many objects."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.pop("sha256") != _checksum(record):
            return None
        if record["key"] != key or record["num_objects"] < num_objects:
            return None
        probe = FaceProbe({name: tuple(weights) for name, weights in record["weights"].items()})
        return JanusTest(probe, record["threshold"], record["rates"], record["num_objects"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def save_test(path: Path, key: str, test: JanusTest) -> None:
    """Writes a test, and creates the folder.

    Raises: OSError if it cannot be written.
    """
    record: dict[str, Any] = {
        "key": key,
        "num_objects": test.num_objects,
        "threshold": test.threshold,
        "rates": test.rates,
        "weights": test.probe.weights,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps({"sha256": _checksum(record), **record}) + "\n")


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
