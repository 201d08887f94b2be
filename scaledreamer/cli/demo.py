"""Everything in minutes: trains a generator on the embedded prior, makes assets of unseen prompts, and
scores.

    scaledreamer demo

Writes one page, outputs/demo/index.html, next to the run. Running the command again resumes an interrupted
training, or makes the page again if training has finished. Exit status: 0 done; 2 something is missing or
wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledreamer.cli import Parser, fail, program, whole_number
from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.grammar import Meaning

if TYPE_CHECKING:
    from scaledreamer.asset import Asset
    from scaledreamer.config import Config
    from scaledreamer.evaluation.draws import Draw
    from scaledreamer.evaluation.page import Card, View
    from scaledreamer.pipeline import TextTo3D

MISSION = "a red-eyed tree frog"
MAX_FACES, TEXTURE_SIZE, POSTER_SIZE = 3000, 256, 320
"""Sizes of the page's meshes and images, which are small because they are embedded in the page."""
NUM_JANUS_OBJECTS = 32
CURVES = (
    "validation/score",
    "validation/hard_r1",
    "validation/plain_r1",
    "validation/iou",
    "render/opacity",
    "gradient/norm",
    "prior0/latent_gradient",
    "prior0/pixel_gradient",
    "prior0/clipped_fraction",
    "prior0/timestep",
    "loss/eikonal",
    "loss/sparsity",
    "lr/generator",
    "seconds/step",
)


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = Parser(
        prog="scaledreamer demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    config = "of the training: a YAML file, or a shipped one's name (%(default)s)"
    add("--config", default="demo", metavar="FILE", help=config)
    scored = "prompts scored of each split (%(default)s)"
    add("--num-prompts", type=whole_number(2, 20_000), default=64, metavar="N", help=scored)
    shown = "unseen prompts shown (%(default)s)"
    add("--num-shown", type=whole_number(1, 1000), default=12, metavar="N", help=shown)
    add(
        "settings",
        nargs="*",
        metavar="key.path=value",
        help="settings of the training that go before the file's",
    )
    return parser


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = make_parser().parse_intermixed_args(argv)
    from scaledreamer.config import load_config

    try:
        config = load_config(arguments.config, arguments.settings)
        return _run(arguments, config)
    except ValueError as error:
        return fail(error)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace, config: Config) -> int:
    start = time.monotonic()
    train = ["train", "--config", arguments.config, *arguments.settings]
    print(f"training: {_shell(['scaledreamer', *train])}", flush=True)
    status = subprocess.run([sys.executable, "-m", "scaledreamer", *train], check=False).returncode
    if status != 0:
        print("error: training did not finish, see above; the same command goes on", file=sys.stderr)
        return 130 if status in (-2, 130) else 2

    from transformers.utils import logging as transformers_logging

    from scaledreamer.evaluation.clip_scores import TinyClip
    from scaledreamer.evaluation.draws import draw_prompts
    from scaledreamer.evaluation.page import Card, Section, read_curves, render_page
    from scaledreamer.evaluation.scores import evaluate, janus_test_of, save_report
    from scaledreamer.pipeline import TextTo3D

    transformers_logging.disable_progress_bar()
    folder = Path(config.training.output)
    curves = read_curves(folder / "metrics.jsonl", CURVES)
    train_minutes = _minutes(*curves["seconds/step"])
    pipe, shipped = TextTo3D.from_pretrained(folder), TextTo3D.from_pretrained(None)
    encoder = TinyClip.from_pretrained(device=pipe.device)
    kinds = config.prompts.kinds and list(dict.fromkeys(config.prompts.kinds))
    part: dict[str, Any] = {"kinds": kinds, "max_extras": config.prompts.max_extras}
    janus_test = janus_test_of(pipe, encoder, NUM_JANUS_OBJECTS)
    reports, draws = {}, {}
    for split in ("unseen", "seen"):
        print(f"evaluating {arguments.num_prompts} {split} prompts", flush=True)
        draws[split] = draw_prompts(0, split, arguments.num_prompts, **part)
        reports[split] = evaluate(
            pipe,
            [draws[split]],
            encoder,
            gallery_size=arguments.num_prompts,
            janus_test=janus_test,
            num_timed=3,
        )
        save_report(folder / f"{split}.json", reports[split])
    print("making the page's assets", flush=True)
    chosen = choose(draws["unseen"], arguments.num_shown)
    cards = make_cards(pipe, shipped, chosen, folder / "assets", minutes=round(train_minutes))
    lead = Card(MISSION, [make_view(shipped(MISSION), folder / "assets" / "shipped.glb", _SHIPPED)])
    sections = [
        Section("Prompts that were never seen", _UNSEEN, cards, reports["unseen"]),
        Section("Prompts of the training, for comparison", "", [], reports["seen"]),
    ]

    minutes = (time.monotonic() - start) / 60
    memory = max(
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    training = config.training
    facts = [
        "One network turns a prompt into a textured mesh in one forward pass. It learned to from prompts and "
        "a frozen 2D diffusion model alone: it never saw a 3D object or a photograph. This frog comes from "
        "the generator that is shipped with the package; red-eyed tree frogs were held out of its training. "
        "Drag it to turn it around.",
        f"Below, next to it: a generator that this command trained from nothing in {train_minutes:.0f} "
        f"minutes, {pipe.step:,} steps of {training.batch_size} prompts. {_world(config)}",
        f"The whole command took {minutes:.1f} minutes and {memory / 2**20:.1f} GiB of memory. Nothing is "
        "picked by hand: shown are the first prompts of each kind in a random draw.",
    ]
    flags = f"{_flags(part)}--num-prompts {arguments.num_prompts} --seeds 1"
    again = f"scaledreamer evaluate --checkpoint {folder} {flags}"
    commands = [
        "scaledreamer demo",
        _shell(["scaledreamer", *train]),
        *(f"{again} --split {split} --out {folder}/{split}.json" for split in ("unseen", "seen")),
        _shell(["scaledreamer", "infer", "--prompt", MISSION]),
        _shell(["scaledreamer", "infer", "--checkpoint", str(folder), "--prompt", chosen[0][0]]),
    ]
    title = "ScaleDreamer: prompts in, 3D assets out"
    page = render_page(title, lead, facts, commands, sections, curves)
    (folder / "index.html").write_text(page, encoding="utf-8")
    print(f"{folder / 'index.html'}: open it in a browser; {minutes:.1f} minutes in all")
    return 0


_SHIPPED = "shipped generator"
_UNSEEN = (
    "None of these meanings, in any wording, was in the training of the generators, of the diffusion model "
    "or of the CLIP that scores them."
)


def choose(draw: Draw, count: int) -> list[tuple[str, Meaning]]:
    """The first prompt of each kind in a draw, then others, preceded by `MISSION` if its kind is there."""
    pairs = list(zip(draw.prompts, draw.meanings, strict=True))
    kinds = [meaning.kind for meaning in draw.meanings]
    first = [pair for i, pair in enumerate(pairs) if kinds.index(kinds[i]) == i]
    mission = [(MISSION, grammar.MISSION)] if grammar.MISSION.kind in kinds else []
    return list(dict.fromkeys([*mission, *first, *pairs]))[:count]


def make_cards(
    pipe: TextTo3D, shipped: TextTo3D, chosen: Sequence[tuple[str, Meaning]], folder: Path, *, minutes: int
) -> list[Card]:
    """For each prompt the assets of the trained and the shipped generator, and the true object."""
    from scaledreamer.asset import Asset
    from scaledreamer.evaluation.page import Card
    from scaledreamer.tinyworld.scene import WorldScene

    cards = []
    for number, (prompt, meaning) in enumerate(chosen):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assets = {f"{minutes} minutes from nothing": pipe(prompt), _SHIPPED: shipped(prompt)}
        assets["true object"] = Asset(prompt, 0, WorldScene([meaning], pipe.device), device=pipe.device)
        names = [folder / f"{number:02d}-{name}.glb" for name in ("trained", "shipped", "true")]
        views = [
            make_view(asset, path, label) for path, (label, asset) in zip(names, assets.items(), strict=True)
        ]
        cards.append(Card(prompt, views))
        print(f"  {prompt}", flush=True)
    return cards


def make_view(asset: Asset, path: Path, label: str) -> View:
    """An asset's mesh, written to `path`, and its image from the viewer's initial camera."""
    from scaledreamer.evaluation import page
    from scaledreamer.meshing.export import save_png

    if not asset.has_surface:
        return page.View(label, None)
    model = asset.export(path, max_faces=MAX_FACES, texture_size=TEXTURE_SIZE)
    poster = path.with_suffix(".png")
    frame = asset.frame(
        page.AZIMUTH_DEG, 360, POSTER_SIZE, elevation_deg=page.ELEVATION_DEG, background="transparent"
    )
    save_png(poster, frame)
    return page.View(label, page.data_uri(poster), page.data_uri(model))


def _world(config: Config) -> str:
    """A description of the part of the tinyworld that a training uses."""
    prompts = config.prompts
    names = [f"{kind}s" for kind in dict.fromkeys(prompts.kinds or grammar.KINDS)]
    kinds = f"{len(names)} of the tinyworld's {len(grammar.KINDS)} kinds of object ({', '.join(names)})"
    extras = (
        "nothing more",
        "at most one thing more: the colour of a part, a pattern, something worn or something it stands on",
        "at most two things more: the colour of a part, a pattern, something worn, something it stands on",
    )[prompts.max_extras]
    return f"Its part of the world is {kinds}, in ten colours, with {extras}."


def _minutes(steps: Sequence[float], seconds: Sequence[float]) -> float:
    """Duration of a training, even if interrupted, from its seconds per step since the previous line."""
    before = [0.0, *steps[:-1]]
    return sum(s * (b - a) for a, b, s in zip(before, steps, seconds, strict=True)) / 60


def _flags(part: dict[str, Any]) -> str:
    kinds = f"--kinds {','.join(part['kinds'])!r} " if part["kinds"] else ""
    return f"{kinds}--max-extras {part['max_extras']} " if part["max_extras"] != grammar.MAX_EXTRAS else kinds


def _shell(words: Sequence[str]) -> str:
    return " ".join(f"'{word}'" if " " in word else word for word in words)


if __name__ == "__main__":
    sys.exit(main())
