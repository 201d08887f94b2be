"""Scores a generator on prompts of one split, with ground truth (ceiling) and shuffled prompts (floor).

    scaledreamer evaluate --split unseen --num-prompts 256 --seeds 3 --out outputs/unseen.json
    scaledreamer evaluate --prompts-file mine.txt --no-janus --out outputs/mine.json

Each seed draws its own prompts and cameras. Of the prompts in a file, captions of the tinyworld get all
scores, others only those of the CLIP; the shipped CLIP only knows the tinyworld. docs/metrics.md explains the
scores. Exit status: 0 done; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaledreamer.cli import Parser, fail, program, whole_number
from scaledreamer.exported import find_generator, read_index
from scaledreamer.tinyworld import grammar

if TYPE_CHECKING:
    from scaledreamer.evaluation.own_prompts import OwnPrompts
    from scaledreamer.pipeline import TextTo3D

NUM_TIMED = 6
MAX_NOTES = 8
"""Maximum number of lines about words in your own prompts that a generator misreads."""


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = Parser(
        prog="scaledreamer evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    generator = "a run, an exported generator or a hub id (the shipped one)"
    add("--checkpoint", type=Path, metavar="DIR", help=generator)
    add("--prompts-file", type=Path, metavar="FILE", help="own prompts: one a line, or a JSON corpus")
    add("--split", choices=grammar.SPLITS, help="of the prompts (unseen)")
    add("--num-prompts", type=whole_number(2, 20_000), metavar="N", help="a seed (256)")
    seeds = "number of draws (3; 1 with --prompts-file)"
    add("--seeds", type=whole_number(1, 1000), metavar="K", help=seeds)
    add("--out", type=Path, required=True, metavar="FILE", help="where the scores go, as JSON")
    add("--kinds", type=_names, metavar="LIST", help="only these kinds of the world, separated by commas")
    extras = "things said beyond kind and colour, at most (2)"
    add("--max-extras", type=whole_number(0, 2), metavar="N", help=extras)
    gallery = "captions in the gallery of plain R@1, at most --num-prompts (%(default)s)"
    add("--gallery-size", type=whole_number(2, 20_000), default=256, metavar="G", help=gallery)
    add("--sheet", type=Path, metavar="FILE", help="PNG of a few assets, with the true objects beside them")
    add("--no-janus", action="store_true", help="do not look for second and missing faces")
    add("--clip", type=Path, metavar="DIR", help="evaluator CLIP: a CLIPModel's folder (the shipped one)")
    size = "pixels of the images that CLIP reads, before they get its own size (%(default)s)"
    add("--image-size", type=whole_number(16, 1024), default=64, metavar="N", help=size)
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
        found = find_generator(arguments.checkpoint)  # downloaded, if it is on a hub
        read_index(found)
        arguments.checkpoint = arguments.checkpoint and found
        _run(arguments, own)
    except ValueError as error:
        return fail(error)
    return 0


def _check_together(arguments: argparse.Namespace) -> None:
    """Raises ValueError for options that do not apply to a file's prompts; sets the others' defaults."""
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

    Raises: ValueError if there are none, or one of them is not valid.
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
    from scaledreamer.evaluation.scores import evaluate, janus_test_of, save_report, save_sheet
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
    observer = Observer(pipe.make_renderer().for_scores(), pipe.device, image_size=arguments.image_size)
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
        save_sheet(arguments.sheet, pipe.scenes, draws[0], observer, own)
    save_report(arguments.out, report)


def _check_own(pipe: TextTo3D, own: OwnPrompts, *, is_shipped_clip: bool) -> None:
    """Reports what generator and CLIP will misread; raises ValueError naming prompts that cannot be made."""
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
