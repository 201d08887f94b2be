"""The full evaluation: every score with its ceiling and floor, as JSON, as a table and as images.

Ceiling: the true objects under the same code. Floor: the same assets, each with another prompt of its draw.
`normalised = (value - floor) / (ceiling - floor)`. Standard errors are those of a mean over all assets of all
draws, clustered by meaning: all assets of one meaning count as one observation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.captions import captioned_rows
from scaledreamer.contracts import Scene
from scaledreamer.evaluation import faces
from scaledreamer.evaluation.alignment import aligned_iou
from scaledreamer.evaluation.clip_scores import (
    ImageTextEncoder,
    hard_retrieval,
    plain_retrieval,
    pool_views,
    similarity,
)
from scaledreamer.evaluation.draws import Draw
from scaledreamer.evaluation.ground_truth import (
    MakeScene,
    Observation,
    Observer,
    image_error,
    silhouette_iou,
    volume_iou,
)
from scaledreamer.evaluation.janus import SHARES, JanusTest
from scaledreamer.meshing.export import save_png
from scaledreamer.tinyworld.grammar import ATTRIBUTES, Meaning
from scaledreamer.tinyworld.scene import WorldScene

SCORES = ("hard_r1", "plain_r1", "similarity", "iou", "iou_aligned", "silhouette_iou", "image_error")
BY_ATTRIBUTE = "hard_r1_by_attribute"
LABELS = {
    "plain_r1": "plain R@1 of {}",
    "similarity": "similarity",
    "iou": "IoU",
    "iou_aligned": "IoU, aligned",
    "silhouette_iou": "silhouette IoU",
    "image_error": "image error",
    "two_faced": "two-faced",
    "faceless": "faceless",
    "janus": "Janus: either",
}
"""Labels of scores in the table; the number is the gallery size."""
GALLERY_SIZE = 256

Values = dict[str, Float[Tensor, " prompt"]]


@dataclass
class Measurement:
    """Scores of one draw per asset, NaN if missing; those of attributes are named like "hard_r1/color"."""

    meanings: Sequence[Meaning]
    value: Values = field(default_factory=dict)
    ceiling: Values = field(default_factory=dict)
    floor: Values = field(default_factory=dict)
    num_distractors: list[int] = field(default_factory=list)
    gallery_size: int = 0


def evaluate_scenes(
    make_scene: MakeScene,
    draws: Sequence[Draw],
    *,
    encoder: ImageTextEncoder,
    observer: Observer,
    janus_test: JanusTest | None = None,
    gallery_size: int = GALLERY_SIZE,
    seconds: Sequence[float] = (),
) -> dict[str, Any]:
    """All scores of a generator, as `summarise` gives them.

    Args:
        make_scene: makes the scenes of prompts; gradients are not needed.
        draws: at least one.
        encoder: the evaluator CLIP.
        observer: renders and samples generated and true scenes.
        janus_test: None skips second and missing faces.
        gallery_size: of plain R@1; a draw with fewer prompts uses all of them.
        seconds: forward pass and mesh, for each asset that was timed.
    """
    measured = [measure(make_scene, draw, encoder, observer, janus_test, gallery_size) for draw in draws]
    return summarise(measured, janus_test, seconds)


@torch.no_grad()
def measure(
    make_scene: MakeScene,
    draw: Draw,
    encoder: ImageTextEncoder,
    observer: Observer,
    janus_test: JanusTest | None = None,
    gallery_size: int = GALLERY_SIZE,
) -> Measurement:
    """Scores of one draw."""
    meanings = draw.meanings
    generated = observer.observe(make_scene, draw.prompts, start_azimuth_deg=draw.start_azimuth_deg)
    true = observer.observe_truth(meanings, start_azimuth_deg=draw.start_azimuth_deg)
    pooled, pooled_true = pool_views(encoder, generated.images), pool_views(encoder, true.images)
    wrong = [meanings[partner] for partner in draw.partners]
    gallery_size = min(gallery_size, len(meanings))
    result = Measurement(meanings, gallery_size=gallery_size)
    columns = [(result.value, pooled, meanings), (result.ceiling, pooled_true, meanings)]
    columns += [(result.floor, pooled, tuple(wrong))] if wrong else []
    for column, embedded, meant in columns:
        hard = hard_retrieval(encoder, embedded, meant)
        column["hard_r1"] = hard.overall
        column.update({f"hard_r1/{name}": won for name, won in hard.by_attribute.items()})
        column["plain_r1"] = plain_retrieval(encoder, embedded, meant, gallery_size)
        column["similarity"] = similarity(encoder, embedded, meant)
        if column is result.value:
            result.num_distractors = hard.num_distractors.tolist()
    result.value |= _compare(generated, true)
    if wrong:
        result.floor |= _compare(generated, true.rows(draw.partners))
    same = _compare(true, true, align=False)
    result.ceiling |= same | {"iou_aligned": same["iou"]}  # nothing to align
    if janus_test is not None:
        _judge_faces(result, make_scene, draw, encoder, observer, janus_test)
    for column in (result.value, result.ceiling, result.floor):
        column.update({name: value.float().cpu() for name, value in column.items()})
    return result


def _judge_faces(
    result: Measurement,
    make_scene: MakeScene,
    draw: Draw,
    encoder: ImageTextEncoder,
    observer: Observer,
    janus_test: JanusTest,
) -> None:
    """Adds the shares of `janus` for assets and true objects of kinds that can have a face."""
    faced = [row for row, meaning in enumerate(draw.meanings) if meaning.kind in faces.KINDS]
    meanings = [draw.meanings[row] for row in faced]

    def generated(rows: Sequence[int]) -> Scene:
        return make_scene([draw.prompts[faced[row]] for row in rows])

    def true(rows: Sequence[int]) -> Scene:
        return WorldScene([meanings[row] for row in rows], observer.device)

    for column, make, size in (
        (result.value, generated, observer.generated_batch),
        (result.ceiling, true, observer.true_batch),
    ):
        column.update({name: torch.full((len(draw.meanings),), torch.nan) for name in SHARES})
        if faced:
            verdicts = janus_test.verdicts(encoder, observer, make, meanings, batch_size=size)
            for name, verdict in verdicts.items():
                column[name][faced] = verdict


def _compare(generated: Observation, true: Observation, *, align: bool = True) -> Values:
    scores = {
        "iou": volume_iou(generated, true),
        "silhouette_iou": silhouette_iou(generated, true),
        "image_error": image_error(generated, true),
    }
    return scores | ({"iou_aligned": aligned_iou(generated.distance, true.distance)[0]} if align else {})


# --- from assets to means ----------------------------------------------------------------------------------


def clustered_mean(
    values: Float[Tensor, " asset"], clusters: Sequence[object]
) -> tuple[float | None, float | None]:
    """Mean of the values that are not NaN, and its clustered standard error; None if there are too few
    values.

    With clusters c, `se^2 = C / (C - 1) * sum_c (sum_{i in c} (x_i - mean))^2 / n^2`; for clusters of size
    one this is the usual standard error.
    """
    is_there = ~values.isnan()
    count = int(is_there.sum())
    if count == 0:
        return None, None
    mean = values[is_there].double().mean().item()
    sums: dict[object, float] = {}
    for cluster, value, there in zip(clusters, values.tolist(), is_there.tolist(), strict=True):
        if there:
            sums[cluster] = sums.get(cluster, 0.0) + value - mean
    if len(sums) < 2:
        return mean, None
    variance = len(sums) / (len(sums) - 1) * sum(total**2 for total in sums.values()) / count**2
    return mean, math.sqrt(variance)


def summarise(
    measured: Sequence[Measurement], janus_test: JanusTest | None = None, seconds: Sequence[float] = ()
) -> dict[str, Any]:
    """Means over all draws.

    Returns: each score as `{value, standard_error, ceiling, floor, normalised}`, `hard_r1_by_attribute` as a
        mapping to such entries, and what is needed to interpret them: `above_floor` (value minus floor per
        asset, with its standard error), `num_distractors`, `gallery_size`, `num_assets`, `janus_validation`.
        Missing numbers are None.
    """
    clusters = [meaning for m in measured for meaning in m.meanings]

    def entry(name: str) -> dict[str, float | None]:
        value, error = clustered_mean(_joined(measured, "value", name), clusters)
        ceiling, _ = clustered_mean(_joined(measured, "ceiling", name), clusters)
        floor, _ = clustered_mean(_joined(measured, "floor", name), clusters)
        normalised = None
        if value is not None and ceiling is not None and floor is not None and abs(ceiling - floor) > 1e-9:
            normalised = (value - floor) / (ceiling - floor)
        return {
            "value": value,
            "standard_error": error,
            "ceiling": ceiling,
            "floor": floor,
            "normalised": normalised,
        }

    def above_floor(name: str) -> dict[str, float | None]:
        difference = _joined(measured, "value", name) - _joined(measured, "floor", name)
        value, error = clustered_mean(difference, clusters)
        return {"value": value, "standard_error": error}

    distractors = [count for m in measured for count in m.num_distractors]
    return {
        "hard_r1": entry("hard_r1"),
        BY_ATTRIBUTE: {name: entry(f"hard_r1/{name}") for name in ATTRIBUTES},
        **{name: entry(name) for name in SCORES[1:]},
        **{name: entry(name) for name in SHARES},
        "seconds_per_asset": timing(seconds),
        "above_floor": {name: above_floor(name) for name in SCORES},
        "num_distractors": {
            "mean": sum(distractors) / len(distractors),
            "least": min(distractors),
            "most": max(distractors),
        },
        "gallery_size": min(m.gallery_size for m in measured),
        "num_assets": len(clusters),
        "num_distinct_meanings": len(set(clusters)),
        "janus_validation": janus_test and janus_test.summary,
    }


def timing(seconds: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard error of seconds per asset, as an entry of a report."""
    value, error = clustered_mean(torch.tensor(list(seconds), dtype=torch.float32), range(len(seconds)))
    return {"value": value, "standard_error": error, "ceiling": None, "floor": None, "normalised": None}


def _joined(measured: Sequence[Measurement], column: str, name: str) -> Float[Tensor, " asset"]:
    """One score of all assets; NaN if it was not measured."""
    missing = (torch.full((len(m.meanings),), torch.nan) for m in measured)
    return torch.cat([getattr(m, column).get(name, nan) for m, nan in zip(measured, missing, strict=True)])


# --- to be read --------------------------------------------------------------------------------------------


def table_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The scores as rows of text, starting with the header."""

    def row(label: str, entry: Mapping[str, float | None]) -> tuple[str, ...]:
        columns = ("value", "standard_error", "ceiling", "floor", "normalised")
        return (label, *("-" if entry[name] is None else f"{entry[name]:.3f}" for name in columns))

    rows: list[tuple[str, ...]] = [("score", "value", "standard error", "ceiling", "floor", "normalised")]
    if "hard_r1" in report:
        rows.append(row("hard R@1", report["hard_r1"]))
        rows += [row(f"  {name.replace('_', ' ')}", entry) for name, entry in report[BY_ATTRIBUTE].items()]
        rows += [
            row(label.format(report["gallery_size"]), report[name])
            for name, label in LABELS.items()
            if name in report
        ]
    if "others" in report:
        others = report["others"]
        rows.append(row("similarity, other prompts", others["similarity"]))
        rows.append(row(f"plain R@1 of {others['gallery_size']}, other prompts", others["plain_r1"]))
    rows.append(row("seconds per asset", report["seconds_per_asset"]))
    return rows


def format_table(report: Mapping[str, Any]) -> str:
    """`table_rows` in columns."""
    rows = table_rows(report)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for label, *cells in rows:
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([label.ljust(widths[0]), *numbers]))
    return "\n".join(lines)


def save_sheet(path: Path, rows: Float[Tensor, "row view 3 h w"], captions: Sequence[str]) -> None:
    """Writes a PNG with captioned rows of images in [0, 1]."""
    save_png(path, captioned_rows(rows, captions))
