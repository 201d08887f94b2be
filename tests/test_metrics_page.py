"""docs/metrics.md names exactly what a run and a report write down."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scaledreamer import captions
from scaledreamer.config import load_config
from scaledreamer.evaluation import scores
from scaledreamer.evaluation.clip_scores import TinyClip
from scaledreamer.evaluation.faces import SHARED, FaceProbe
from scaledreamer.evaluation.ground_truth import Observer
from scaledreamer.evaluation.janus import SHARES, SORTS, JanusTest
from scaledreamer.evaluation.own_prompts import sort_prompts
from scaledreamer.evaluation.validation import SCORES
from scaledreamer.rendering.volume import VolumeRenderer
from scaledreamer.tinyworld.grammar import ATTRIBUTES
from scaledreamer.training import regularizers
from scaledreamer.training import run as running
from tests.support.random_models import save_tiny_clip, write_random_prior
from tests.support.runs import write_config
from tests.support.tiny_export import tiny_pipeline

ROOT = Path(__file__).parent.parent

PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
WHILE_TRAINING, OF_REPORTS = PAGE.split("\n## ")[1:3]


def rows_of(section: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    rows = [line[1:-1].split("|") for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows][1:]


def names_of(section: str) -> list[str]:
    """The names in the first column of a section's table."""
    return [name for row in rows_of(section) for name in re.findall(r"`([^`]+)`", row[0])]


def assert_same(documented: Iterable[str], written: Iterable[str]) -> None:
    """Each written name is documented once, and each documented one is written."""
    documented, written = list(documented), set(written)
    patterns = {name: re.sub("<n>", r"\\d+", re.sub("<name>", r"\\w+", name)) for name in documented}
    assert len(patterns) == len(documented), "a name stands there twice"
    found = {
        name: [key for key in written if re.fullmatch(pattern, key)] for name, pattern in patterns.items()
    }
    assert [name for name, keys in found.items() if not keys] == [], "documented, not written"
    assert sorted(written - {key for keys in found.values() for key in keys}) == [], "not documented"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that is measured: all regularizers, shards, and a validation."""
    folder = tmp_path_factory.mktemp("metrics")
    config = write_config(
        folder,
        write_random_prior(folder / "prior"),
        prompts__shard_size=4,
        prompts__cache=str(folder / "cache"),
        regularizers__sparsity={"weight": 0.1},
        regularizers__opaque={"weight": 0.1},
        regularizers__orientation={"weight": 0.1},
        training__max_steps=2,
        training__tensorboard=True,
        evaluation__every=2,
    )
    scores: dict[str, float] = {name: 0.5 for name in SCORES}
    running.prepare(load_config(config), lambda scene_of, step: scores).train()
    return folder / "run"


def test_the_page_names_what_a_run_writes(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    written = {name for line in lines for name in line}
    assert_same(names_of(WHILE_TRAINING), written)
    weights = {name.removeprefix("weight/") for name in written if name.startswith("weight/")}
    assert weights == set(regularizers.NAMES)
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert set(tags["scalars"]) == written - {"step"} and tags["images"] == ["samples"]
    for name in ("samples", "config", "prompts"):
        assert f"`{name}`" in WHILE_TRAINING


def test_a_run_writes_its_sample_prompts_above_their_pictures(run):
    (path,) = (run / "samples").iterdir()
    grid, size = np.asarray(Image.open(path)), 16
    strip = captions.caption_strip("a red cat", 4 * size, captions.MIN_FONT_SIZE)
    assert grid.shape == (len(strip) + size, 4 * size, 3)
    np.testing.assert_array_equal(grid[: len(strip)], strip)


def test_the_page_names_what_a_report_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "time_assets", lambda pipe, prompts: ([0.5] * len(prompts), 0))
    pipe, own = tiny_pipeline(), sort_prompts(["a red ball", "a shiny red ball"])
    rates = {sort: dict.fromkeys(SHARES, 0.5) for sort in SORTS}
    found = scores.evaluate(
        pipe,
        [own.draw(0)],
        TinyClip.from_pretrained(save_tiny_clip(tmp_path / "clip")),
        gallery_size=2,
        janus_test=JanusTest(FaceProbe({SHARED: (0.0,) * 17}), 0.0, rates, 2),
        num_timed=1,
        own=own,
        observer=Observer(VolumeRenderer(), num_views=2, lattice=8, image_size=8),
    )
    assert_same(names_of(OF_REPORTS), found)
    (described,) = (row for row in rows_of(OF_REPORTS) if row[0] == "`hard_r1_by_attribute`")
    assert set(found["hard_r1_by_attribute"]) == set(ATTRIBUTES)
    assert re.findall(r"`(\w+)`", described[3]) == list(ATTRIBUTES)
    for name in (*found["others"], *found["hard_r1"]):
        assert f"`{name}`" in OF_REPORTS or name in OF_REPORTS
    assert "`janus_validation.rates`" in OF_REPORTS and set(found["janus_validation"]) >= {
        "rates",
        "is_valid",
    }


def test_all_rows_have_all_their_columns():
    for section, columns in ((WHILE_TRAINING, 3), (OF_REPORTS, 4)):
        assert {len(row) for row in rows_of(section)} == {columns}
        assert all(row[0] and row[-1] for row in rows_of(section))
