"""Scores of a generator on prompts of one split, beside ground truth (ceiling) and shuffled prompts (floor).

    python tools/evaluate.py --split unseen --num-prompts 256 --seeds 3 --out outputs/unseen.json
    python tools/evaluate.py --prompts-file mine.txt --no-janus --out outputs/mine.json

Each seed draws its own prompts and cameras. Of a file's prompts, captions of the tinyworld are scored fully
and all others by CLIP alone; the shipped CLIP knows nothing but the tinyworld. docs/metrics.md says what the
scores mean. Exit status: 0 done; 2 bad input; 130 interrupted.
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
    from scaledreamer.evaluation.own_prompts import OwnPrompts
    from scaledreamer.pipeline import TextTo3D

NUM_TIMED = 6
NUM_JANUS_OBJECTS = 88
NUM_SHOWN = 16
MAX_NOTES = 8
"""Lines about what a generator misreads of own prompts."""


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
    add("--prompts-file", type=Path, metavar="FILE", help="own prompts: one a line, or a JSON corpus")
    add("--split", choices=grammar.SPLITS, help="of the prompts (unseen)")
    add("--num-prompts", type=_whole_number(2, 20_000), metavar="N", help="a seed (256)")
    seeds = "number of draws (3; 1 with --prompts-file)"
    add("--seeds", type=_whole_number(1, 1000), metavar="K", help=seeds)
    add("--out", type=Path, required=True, metavar="FILE", help="where the scores go, as JSON")
    add("--kinds", type=_names, metavar="LIST", help="only these kinds of the world, separated by commas")
    extras = "things said beyond kind and colour, at most (2)"
    add("--max-extras", type=_whole_number(0, 2), metavar="N", help=extras)
    gallery = "captions in the gallery of plain R@1, at most --num-prompts (%(default)s)"
    add("--gallery-size", type=_whole_number(2, 20_000), default=256, metavar="G", help=gallery)
    add("--sheet", type=Path, metavar="FILE", help="PNG of a few assets, with the true objects beside them")
    add("--no-janus", action="store_true", help="do not look for second and missing faces")
    add("--clip", type=Path, metavar="DIR", help="evaluator CLIP: a CLIPModel's folder (the shipped one)")
    size = "pixels of the images that CLIP reads, before they get its own size (%(default)s)"
    add("--image-size", type=_whole_number(16, 1024), default=64, metavar="N", help=size)
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:<number> (%(default)s)")
    return parser


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = make_parser().parse_args(argv)
    try:
        _check_together(arguments)
        own = _own_prompts(arguments.prompts_file)
        for path in (arguments.out, arguments.sheet):
            if path is not None:
                _check_writable(path)
        found = find_generator(arguments.checkpoint)  # downloaded, if it is a hub's
        read_index(found)
        arguments.checkpoint = arguments.checkpoint and found
        _run(arguments, own)
    except ValueError as error:
        return fail(error)
    return 0


def _check_together(arguments: argparse.Namespace) -> None:
    """Raises ValueError for options that say nothing about a file's prompts; sets the others' defaults."""
    drawn = {"split": "unseen", "num_prompts": 256, "kinds": None, "max_extras": 2}
    if arguments.prompts_file is not None:
        for name in drawn:
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} is for prompts of the tinyworld; leave it or --prompts-file out")
    for name, default in drawn.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
    if arguments.seeds is None:
        arguments.seeds = 3 if arguments.prompts_file is None else 1


def _own_prompts(path: Path | None) -> list[str] | None:
    """The prompts of a file.

    Raises: ValueError if there are none, or one of them cannot be one.
    """
    from scaledreamer.prompts.prompt_file import check_no_problem, iter_prompt_file

    if path is None:
        return None
    source = f"--prompts-file {path}"
    placed = list(iter_prompt_file(path, source=source))
    check_no_problem(source, placed)
    if not placed:
        raise ValueError(f"{source}: there is no prompt in it; give one a line")
    return [prompt for _, prompt, _ in placed]


def _run(arguments: argparse.Namespace, prompts: list[str] | None) -> None:
    from transformers.utils import logging as transformers_logging

    from scaledreamer.evaluation.clip_scores import TINY_CLIP, TinyClip
    from scaledreamer.evaluation.draws import draw_prompts
    from scaledreamer.evaluation.ground_truth import Observer
    from scaledreamer.evaluation.own_prompts import sort_prompts
    from scaledreamer.pipeline import TextTo3D

    transformers_logging.disable_progress_bar()
    seeds, own = range(arguments.seeds), None
    if prompts is None:
        part = {"kinds": arguments.kinds, "max_extras": arguments.max_extras}
        draws = [draw_prompts(s, arguments.split, arguments.num_prompts, **part) for s in seeds]
        asked = {"split": arguments.split, **part}
    else:
        own = sort_prompts(prompts)
        draws = [own.draw(seed) for seed in seeds]
        asked = {"prompts_file": str(arguments.prompts_file)}
    pipe = TextTo3D.from_pretrained(arguments.checkpoint, device=arguments.device)
    if own is not None:
        _check_own(pipe, own, is_shipped_clip=arguments.clip is None)
    encoder = TinyClip.from_pretrained(arguments.clip or TINY_CLIP, device=pipe.device)
    observer = Observer(renderer_of(pipe), pipe.device, image_size=arguments.image_size)
    report = evaluate(
        pipe,
        draws,
        encoder,
        gallery_size=arguments.gallery_size,
        janus_test=None if arguments.no_janus else janus_test_of(pipe, encoder, observer=observer),
        num_timed=NUM_TIMED,
        own=own,
        observer=observer,
    )
    report["settings"] |= asked
    if arguments.sheet is not None:
        arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
        save_sheet(arguments.sheet, make_scene_of(pipe), draws[0], observer, own)
    save_report(arguments.out, report)


def _check_own(pipe: TextTo3D, own: OwnPrompts, *, is_shipped_clip: bool) -> None:
    """Says what generator and CLIP will misread; raises ValueError naming the prompts that cannot be made."""
    problems, notes = [], []
    for prompt in own.all:
        try:
            notes += [f"note: {prompt!r}: {note}" for note in pipe.check(prompt)]
        except ValueError as error:
            problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - 1} more such prompts" if len(problems) > 1 else ""
        raise ValueError(f"{problems[0]}{more}")
    if len(notes) > MAX_NOTES:
        notes[MAX_NOTES:] = [f"note: {len(notes) - MAX_NOTES} more of the kind"]
    for note in notes:
        print(note, flush=True)
    if own.others and is_shipped_clip:
        print(
            f"note: {len(own.others)} of {len(own.all)} prompts are no captions of the tinyworld, or repeat "
            "one; the shipped CLIP knows nothing else, so that their scores say little: give an "
            "open-vocabulary CLIP with --clip",
            flush=True,
        )


def save_report(path: Path, report: dict[str, Any]) -> None:
    """Writes a report as JSON and prints it as a table."""
    from scaledreamer.evaluation.report import format_table
    from scaledreamer.meshing.export import save_json

    path.parent.mkdir(parents=True, exist_ok=True)
    save_json(path, report)
    print(f"{format_table(report)}\n{path}: {report['settings']['num_assets']} assets")


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
    janus_test: JanusTest | None,
    num_timed: int,
    own: OwnPrompts | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """All scores of an exported generator, with progress on stdout; `settings` says how they were measured.

    Args:
        janus_test: of `janus_test_of`; None leaves second and missing faces out.
        num_timed: assets whose forward pass and mesh are timed.
        own: all of these, where the draws are those of own prompts. The report then has `prompts`; `others`
            where some are no captions of the world; and the usual scores where some are.
        observer: None is the usual one.
    """
    from scaledreamer.evaluation import ground_truth, own_prompts
    from scaledreamer.evaluation.report import measure, summarise, timing

    start = time.monotonic()
    observer = observer or ground_truth.Observer(renderer_of(pipe), pipe.device)
    make_scene, measured, others = make_scene_of(pipe), [], []
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
        "renderer": asdict(observer.renderer),
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
    """The Janus test for an encoder and the pipeline's renderer, from beside the shipped CLIP or the user's
    cache; a new one, which takes minutes, is kept there.

    Args:
        num_objects: of each sort that it has to have been made with at least.
        observer: None is the usual one.
    """
    from scaledreamer.evaluation.clip_scores import TINY_CLIP
    from scaledreamer.evaluation.ground_truth import Observer
    from scaledreamer.evaluation.janus_cache import FILE, find_or_make_test

    observer = observer or Observer(renderer_of(pipe), pipe.device)
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


def save_sheet(
    path: Path, make_scene: MakeScene, draw: Draw, observer: Observer, own: OwnPrompts | None = None
) -> None:
    """Four views of generated objects and, to their right, of the true ones, grey where none is known; a row
    for each prompt, which stands above it."""
    import torch

    from scaledreamer.evaluation import ground_truth, report

    azimuth = draw.start_azimuth_deg
    prompts = (own.all if own is not None else list(draw.prompts))[:NUM_SHOWN]
    generated = observer.images(make_scene, prompts, start_azimuth_deg=azimuth)
    gray = torch.tensor(ground_truth.BACKGROUND, device=generated.device)[:, None, None]
    true = gray.expand_as(generated).clone()
    meanings = draw.meanings[:NUM_SHOWN]  # of the first prompts, where some are not of the world
    if meanings:
        true[: len(meanings)] = observer.observe_truth(meanings, start_azimuth_deg=azimuth).images
    report.save_sheet(path, torch.cat([generated, true], 1), prompts)


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
