"""Scores of a generator on prompts of one split, beside ground truth (ceiling) and shuffled prompts (floor).

    python tools/evaluate.py --split unseen --num-prompts 256 --seeds 3 --out outputs/unseen.json

Each seed draws its own prompts and cameras. Exit status: 0 done; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from scaledreamer import __version__
from scaledreamer.cli import fail, program
from scaledreamer.exported import find_generator, read_index
from scaledreamer.tinyworld import grammar

if TYPE_CHECKING:
    from scaledreamer.evaluation.draws import Draw
    from scaledreamer.evaluation.ground_truth import MakeScene, Observer
    from scaledreamer.evaluation.janus import JanusTest
    from scaledreamer.pipeline import TextTo3D

NUM_TIMED = 6
NUM_JANUS_OBJECTS = 80
NUM_SHOWN = 16


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists all options)\n")


def _whole_number(low: int, high: int) -> Any:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"got {text!r}; accepted are whole numbers from {low} to {high}")
        return int(text)

    return parse


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = _Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    generator = "a run, an exported generator or a hub id (the shipped one)"
    add("--checkpoint", type=Path, metavar="DIR", help=generator)
    add("--split", choices=grammar.SPLITS, default="unseen", help="of the prompts (%(default)s)")
    add("--num-prompts", type=_whole_number(2, 20_000), default=256, metavar="N", help="a seed (%(default)s)")
    add("--seeds", type=_whole_number(1, 1000), default=3, metavar="K", help="number of draws (%(default)s)")
    add("--out", type=Path, required=True, metavar="FILE", help="where the scores go, as JSON")
    add("--kinds", type=_names, metavar="LIST", help="only these kinds of the world, separated by commas")
    add(
        "--max-extras",
        type=_whole_number(0, 2),
        default=2,
        metavar="N",
        help="things said beyond kind and colour",
    )
    gallery = "captions in the gallery of plain R@1, at most --num-prompts (%(default)s)"
    add("--gallery-size", type=_whole_number(2, 20_000), default=256, metavar="G", help=gallery)
    add("--sheet", type=Path, metavar="FILE", help="PNG of a few assets, with the true objects beside them")
    add("--clip", type=Path, metavar="DIR", help="evaluator CLIP (the shipped one)")
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:<number> (%(default)s)")
    return parser


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = make_parser().parse_args(argv)
    try:
        for path in (arguments.out, arguments.sheet):
            if path is not None:
                _check_writable(path)
        found = find_generator(arguments.checkpoint)  # downloaded, if it is a hub's
        read_index(found)
        arguments.checkpoint = arguments.checkpoint and found
        _run(arguments)
    except ValueError as error:
        return fail(error)
    return 0


def _run(arguments: argparse.Namespace) -> None:
    from transformers.utils import logging as transformers_logging

    from scaledreamer.evaluation.clip_scores import TINY_CLIP, TinyClip
    from scaledreamer.evaluation.draws import draw_prompts
    from scaledreamer.evaluation.ground_truth import Observer
    from scaledreamer.pipeline import TextTo3D

    transformers_logging.disable_progress_bar()
    part = {"kinds": arguments.kinds, "max_extras": arguments.max_extras}
    draws = [draw_prompts(s, arguments.split, arguments.num_prompts, **part) for s in range(arguments.seeds)]
    pipe = TextTo3D.from_pretrained(arguments.checkpoint, device=arguments.device)
    encoder = TinyClip.from_pretrained(arguments.clip or TINY_CLIP, device=pipe.device)
    report = evaluate(
        pipe,
        draws,
        encoder,
        gallery_size=arguments.gallery_size,
        janus_test=janus_test_of(pipe, encoder, NUM_JANUS_OBJECTS),
        num_timed=NUM_TIMED,
    )
    report["settings"] |= {"split": arguments.split, **part}
    if arguments.sheet is not None:
        arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
        save_sheet(arguments.sheet, make_scene_of(pipe), draws[0], Observer(renderer_of(pipe), pipe.device))
    save_report(arguments.out, report)


def save_report(path: Path, report: dict[str, Any]) -> None:
    """Writes a report as JSON and prints it as a table."""
    from scaledreamer.evaluation.report import format_table
    from scaledreamer.meshing.export import save_json

    path.parent.mkdir(parents=True, exist_ok=True)
    save_json(path, report)
    print(f"{format_table(report)}\n{path}: {report['num_assets']} assets")


def make_scene_of(pipe: TextTo3D) -> MakeScene:
    """The pipeline's forward pass for a batch of prompts; noise is that of seed 0."""
    return pipe.scenes


def renderer_of(pipe: TextTo3D):
    """The volume renderer with the settings that the generator was trained with, sharpened for scores."""
    from scaledreamer.build import make_renderer
    from scaledreamer.evaluation.ground_truth import sharpened

    return sharpened(make_renderer(pipe.renderer))


def evaluate(
    pipe: TextTo3D,
    draws: Sequence[Draw],
    encoder: Any,
    *,
    gallery_size: int,
    janus_test: JanusTest,
    num_timed: int,
) -> dict[str, Any]:
    """All scores of an exported generator, with progress on stdout; `settings` says how they were measured.

    Args:
        janus_test: of `janus_test_of`.
        num_timed: assets whose forward pass and mesh are timed.
    """
    from scaledreamer.evaluation import ground_truth
    from scaledreamer.evaluation.report import measure, summarise

    start = time.monotonic()
    observer = ground_truth.Observer(renderer_of(pipe), pipe.device)
    measured = []
    for number, draw in enumerate(draws, start=1):
        measured.append(measure(make_scene_of(pipe), draw, encoder, observer, janus_test, gallery_size))
        minutes = (time.monotonic() - start) / 60
        left = minutes / number * (len(draws) - number)
        print(f"draw {number} of {len(draws)}: {minutes:.1f} min, {left:.1f} min left", flush=True)
    seconds, num_empty = time_assets(pipe, draws[0].prompts[:num_timed])
    settings = {
        "num_prompts": len(draws[0].prompts),
        "seeds": len(draws),
        "checkpoint": {"folder": str(pipe.folder), "sha256": pipe.checkpoint_hash, "step": pipe.step},
        "renderer": asdict(observer.renderer),
        "num_views": observer.num_views,
        "image_size": ground_truth.IMAGE_SIZE,
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
    return summarise(measured, janus_test, seconds) | {"settings": settings}


def janus_test_of(pipe: TextTo3D, encoder: Any, num_objects: int) -> JanusTest:
    """The Janus test, its threshold chosen and validated on true objects of the validation split."""
    from scaledreamer.evaluation.draws import draw_prompts
    from scaledreamer.evaluation.ground_truth import Observer
    from scaledreamer.evaluation.janus import validate_janus

    fronted = [kind.name for kind in grammar.KINDS.values() if kind.has_front]
    known = draw_prompts(0, "validation", num_objects, kinds=fronted).meanings
    test = validate_janus(encoder, Observer(renderer_of(pipe), pipe.device), known)
    print(f"Janus test: {test.true_rate:.2f} of true, {test.united_rate:.2f} of united objects", flush=True)
    return test


def time_assets(pipe: TextTo3D, prompts: Sequence[str]) -> tuple[list[float], int]:
    """Seconds of forward pass and textured mesh, asset by asset; and how many had no surface."""
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


def save_sheet(path: Path, make_scene: MakeScene, draw: Draw, observer: Observer) -> None:
    """Four views of generated objects and, to their right, of the true ones; one row for each prompt."""
    import torch

    from scaledreamer.evaluation import report

    azimuth = draw.start_azimuth_deg
    generated = observer.observe(make_scene, draw.prompts[:NUM_SHOWN], start_azimuth_deg=azimuth).images
    true = observer.observe_truth(draw.meanings[:NUM_SHOWN], start_azimuth_deg=azimuth).images
    report.save_sheet(path, torch.cat([generated, true], 1), draw.prompts[:NUM_SHOWN])


def _check_writable(path: Path) -> None:
    """Raises ValueError unless the file can be written."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: cannot be written, since {folder} is no folder that may be written to")


if __name__ == "__main__":
    sys.exit(main())
