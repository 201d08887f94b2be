"""All scores of an exported generator: the report of `scaledreamer evaluate`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledreamer import __version__

if TYPE_CHECKING:
    from scaledreamer.evaluation.draws import Draw
    from scaledreamer.evaluation.ground_truth import MakeScene, Observer
    from scaledreamer.evaluation.janus import JanusTest
    from scaledreamer.evaluation.own_prompts import OwnPrompts
    from scaledreamer.pipeline import TextTo3D

NUM_JANUS_OBJECTS = 88
NUM_SHOWN = 16


def save_report(path: Path, report: dict[str, Any]) -> None:
    """Writes a report as JSON and prints it as a table."""
    from scaledreamer.evaluation.report import format_table
    from scaledreamer.meshing.export import save_json

    path.parent.mkdir(parents=True, exist_ok=True)
    save_json(path, report)
    print(f"{format_table(report)}\n{path}: {report['settings']['num_assets']} assets")


def evaluate(
    pipe: TextTo3D,
    draws: Sequence[Draw],
    encoder: Any,
    *,
    gallery_size: int,
    janus_test: JanusTest | None,
    num_timed: int,
    own: OwnPrompts | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """All scores of an exported generator, with progress on stdout; `settings` records how they were
    measured.

    Args:
        janus_test: from `janus_test_of`; None skips second and missing faces.
        num_timed: number of assets whose forward pass and mesh are timed.
        own: the user's own prompts, if the draws are of those. The report then has `prompts`, `others` if
            some are not captions of the world, and the usual scores if some are.
        observer: None is the default.
    """
    from scaledreamer.evaluation import ground_truth, own_prompts
    from scaledreamer.evaluation.report import measure, summarise, timing

    start = time.monotonic()
    observer = observer or ground_truth.Observer(pipe.make_renderer().for_scores(), pipe.device)
    make_scene, measured, others = pipe.scenes, [], []
    for number, draw in enumerate(draws, start=1):
        if draw.meanings:
            measured.append(measure(make_scene, draw, encoder, observer, janus_test, gallery_size))
        if own is not None and own.others:
            others.append(own_prompts.measure_by_clip(make_scene, own, encoder, observer, draw))
        minutes = (time.monotonic() - start) / 60
        left = minutes / number * (len(draws) - number)
        print(f"draw {number} of {len(draws)}: {minutes:.1f} min, {left:.1f} min left", flush=True)
    prompts = own.all if own is not None else list(draws[0].prompts)
    seconds, num_empty = time_assets(pipe, prompts[:num_timed])
    report: dict[str, Any] = {"seconds_per_asset": timing(seconds)}
    if measured:
        report |= summarise(measured, janus_test, seconds)
    if own is not None:
        if others:
            report["others"] = own_prompts.summarise_others(own, others)
        report["prompts"] = own_prompts.by_prompt(own, measured, others)
    report["settings"] = {
        "num_prompts": len(prompts),
        "num_assets": len(prompts) * len(draws),
        "seeds": len(draws),
        "checkpoint": {"folder": str(pipe.folder), "sha256": pipe.checkpoint_hash, "step": pipe.step},
        "renderer": observer.renderer.settings(),
        "num_views": observer.num_views,
        "image_size": observer.image_size,
        "elevation_deg": ground_truth.ELEVATION_DEG,
        "distance": ground_truth.DISTANCE,
        "fov_deg": ground_truth.FOV_DEG,
        "background": ground_truth.BACKGROUND,
        "lattice": observer.lattice,
        "num_timed": len(seconds),
        "num_timed_without_surface": num_empty,
        "device": str(pipe.device),
        "version": __version__,
        "minutes": round((time.monotonic() - start) / 60, 2),
    }
    return report


def janus_test_of(
    pipe: TextTo3D, encoder: Any, num_objects: int = NUM_JANUS_OBJECTS, *, observer: Observer | None = None
) -> JanusTest:
    """The Janus test for an encoder and the pipeline's renderer: the shipped one, or one from the user's
    cache. A new one, which takes minutes, is cached.

    Args:
        num_objects: minimum number of objects of each sort.
        observer: None is the default.
    """
    from scaledreamer.evaluation.clip_scores import TINY_CLIP
    from scaledreamer.evaluation.ground_truth import Observer
    from scaledreamer.evaluation.janus_cache import FILE, find_or_make_test

    observer = observer or Observer(pipe.make_renderer().for_scores(), pipe.device)
    test = find_or_make_test(encoder, observer, num_objects, shipped=TINY_CLIP / FILE)
    rates = test.rates
    print(
        f"Janus test: two-faced {rates['true']['two_faced']:.2f} of true and "
        f"{rates['united']['two_faced']:.2f} of united objects; faceless {rates['true']['faceless']:.2f} of "
        f"true and {rates['faceless']['faceless']:.2f} of faceless ones"
        f"{'' if test.is_valid else ': not valid'}",
        flush=True,
    )
    return test


def time_assets(pipe: TextTo3D, prompts: Sequence[str]) -> tuple[list[float], int]:
    """Seconds for forward pass and textured mesh of each asset, and the number of assets without surface."""
    from scaledreamer.meshing.isosurface import EmptySurfaceError

    seconds, num_empty = [], 0
    for prompt in prompts:
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                pipe(prompt).textured_mesh()
            seconds.append(time.perf_counter() - start)
        except EmptySurfaceError:
            num_empty += 1
    return seconds, num_empty


def save_sheet(
    path: Path, make_scene: MakeScene, draw: Draw, observer: Observer, own: OwnPrompts | None = None
) -> None:
    """Four views of generated objects and, to their right, of the true ones (grey if unknown), in a captioned
    row for each prompt."""
    import torch

    from scaledreamer.evaluation import ground_truth, report

    azimuth = draw.start_azimuth_deg
    prompts = (own.all if own is not None else list(draw.prompts))[:NUM_SHOWN]
    generated = observer.images(make_scene, prompts, start_azimuth_deg=azimuth)
    gray = torch.tensor(ground_truth.BACKGROUND, device=generated.device)[:, None, None]
    true = gray.expand_as(generated).clone()
    meanings = draw.meanings[:NUM_SHOWN]  # of the first prompts, if some are not of the world
    if meanings:
        true[: len(meanings)] = observer.observe_truth(meanings, start_azimuth_deg=azimuth).images
    report.save_sheet(path, torch.cat([generated, true], 1), prompts)
