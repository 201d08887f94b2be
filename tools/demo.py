"""All of it in minutes: trains a generator on the embedded prior, makes assets of unseen prompts and scores.

    python tools/demo.py            # or: make demo

Writes one page, outputs/demo/index.html, beside the run itself. The same command again goes on with an
interrupted training, and only makes the page anew when training is done. Exit status: 0 done; 2 something is
missing or wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import evaluate

from scaledreamer.cli import fail, program
from scaledreamer.config_file import load_config
from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.grammar import Meaning

if TYPE_CHECKING:
    from scaledreamer.asset import Asset
    from scaledreamer.config import Config
    from scaledreamer.evaluation.draws import Draw
    from scaledreamer.evaluation.page import Card
    from scaledreamer.pipeline import TextTo3D

ROOT = Path(__file__).resolve().parent.parent
NUM_FRAMES, FRAME_SIZE = 16, 128
MAX_FACES, TEXTURE_SIZE = 6000, 256
"""Of the page's meshes: small, since the page holds them."""
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", type=Path, default=ROOT / "configs" / "demo.yaml", help="of the training (%(default)s)")
    add("--num-prompts", type=int, default=64, help="scored of each split (%(default)s)")
    add("--num-unseen", type=int, default=12, help="unseen prompts shown (%(default)s)")
    add("--num-seen", type=int, default=6, help="seen prompts shown (%(default)s)")
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
    try:
        config = load_config(str(arguments.config), arguments.settings)
        return _run(arguments, config)
    except ValueError as error:
        return fail(error)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace, config: Config) -> int:
    start = time.monotonic()
    train = [sys.executable, str(ROOT / "train.py"), "--config", str(arguments.config), *arguments.settings]
    print(f"training: {_shell(train)}", flush=True)
    status = subprocess.run(train, check=False).returncode
    if status != 0:
        print("error: training did not finish, see above; the same command goes on", file=sys.stderr)
        return 130 if status in (-2, 130) else 2
    train_minutes = (time.monotonic() - start) / 60

    from transformers.utils import logging as transformers_logging

    from scaledreamer.evaluation.clip_scores import TinyClip
    from scaledreamer.evaluation.draws import draw_prompts
    from scaledreamer.evaluation.page import Section, read_curves, render_page
    from scaledreamer.pipeline import TextTo3D

    transformers_logging.disable_progress_bar()
    folder = Path(config.training.output)
    pipe = TextTo3D.from_pretrained(folder)
    encoder = TinyClip.from_pretrained(device=pipe.device)
    part: dict[str, Any] = {"kinds": config.prompts.kinds, "max_extras": config.prompts.max_extras}
    sections = []
    janus_test = evaluate.janus_test_of(pipe, encoder, NUM_JANUS_OBJECTS)
    for split, title, text, shown in (
        ("unseen", "Unseen prompts", _UNSEEN, arguments.num_unseen),
        ("seen", "Prompts of the training", _SEEN, arguments.num_seen),
    ):
        print(f"evaluating {arguments.num_prompts} {split} prompts", flush=True)
        draw = draw_prompts(0, split, arguments.num_prompts, **part)
        report = evaluate.evaluate(
            pipe, [draw], encoder, gallery_size=len(draw.prompts), janus_test=janus_test, num_timed=3
        )
        evaluate.save_report(folder / f"{split}.json", report)
        cards = make_cards(pipe, choose(draw, shown, is_unseen=split == "unseen"), folder / "assets", split)
        sections.append(Section(title, text, cards, report))
    minutes = (time.monotonic() - start) / 60
    memory = max(
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    training = config.training
    facts = [
        f"A generator trained from nothing but {_world(config)} and the embedded 2D diffusion prior: "
        f"{training.max_steps} steps of {training.batch_size} prompts. Shown is the one of step {pipe.step}.",
        f"This command took {minutes:.1f} minutes, of which training {train_minutes:.1f}; peak memory of one "
        f"process {memory / 2**20:.1f} GiB.",
        "Drag a mesh to turn it around. Below it are turntables that start at the front and go round "
        "counter-clockwise: left what one forward pass made of the prompt, right what the prompt means. "
        "Nothing is chosen by hand: shown are the first of each kind in a random draw.",
    ]
    flags = f"{_flags(part)}--num-prompts {arguments.num_prompts} --seeds 1"
    again = f"python tools/evaluate.py --checkpoint {folder} {flags}"
    commands = [
        "make demo",
        _shell([word.removeprefix(f"{ROOT}/") for word in ["python", *train[1:]]]),
        *(f"{again} --split {split} --out {folder}/{split}.json" for split in ("unseen", "seen")),
        _shell(["python", "infer.py", "--checkpoint", str(folder), "--prompt", sections[0].cards[0].prompt]),
    ]
    title = "ScaleDreamer: prompts in, 3D assets out"
    page = render_page(title, facts, commands, sections, read_curves(folder / "metrics.jsonl", CURVES))
    (folder / "index.html").write_text(page, encoding="utf-8")
    print(f"{folder / 'index.html'}: open it in a browser; {minutes:.1f} minutes in all")
    return 0


_UNSEEN = (
    "None of these meanings, said in any way, was in the training of the generator, of the prior or of the "
    "CLIP that scores them."
)
_SEEN = "Meanings of the split that the generator was trained on, for comparison."


def choose(draw: Draw, count: int, *, is_unseen: bool) -> list[tuple[str, Meaning]]:
    """The first prompt of each kind in a draw, then others; before unseen ones "a red-eyed tree frog"."""
    pairs = list(zip(draw.prompts, draw.meanings, strict=True))
    kinds = [meaning.kind for meaning in draw.meanings]
    first = [pair for i, pair in enumerate(pairs) if kinds.index(kinds[i]) == i]
    others = [pair for pair in pairs if pair not in first]
    mission = (
        [("a red-eyed tree frog", grammar.MISSION)] if is_unseen and grammar.MISSION.kind in kinds else []
    )
    return list(dict.fromkeys([*mission, *first, *others]))[:count]


def make_cards(pipe: TextTo3D, chosen: Sequence[tuple[str, Meaning]], folder: Path, name: str) -> list[Card]:
    """Turntables of assets and of true objects, and the assets' meshes."""
    from scaledreamer.asset import Asset
    from scaledreamer.evaluation.page import Card, data_uri
    from scaledreamer.meshing.isosurface import EmptySurfaceError
    from scaledreamer.tinyworld.shapes import WorldScene

    folder.mkdir(parents=True, exist_ok=True)
    cards = []
    for number, (prompt, meaning) in enumerate(chosen):
        stem = f"{name}-{number:02d}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            asset = pipe(prompt)
        model = None
        with contextlib.suppress(EmptySurfaceError):
            path = folder / f"{stem}.glb"
            model = data_uri(asset.export(path, max_faces=MAX_FACES, texture_size=TEXTURE_SIZE))
        true = Asset(prompt, 0, WorldScene([meaning], pipe.device), device=pipe.device)
        turntable = _save_turntable(folder / f"{stem}.gif", asset)
        true_turntable = _save_turntable(folder / f"{stem}-true.gif", true)
        cards.append(Card(prompt, turntable, true_turntable, model))
        print(f"  {prompt}", flush=True)
    return cards


def _save_turntable(path: Path, asset: Asset) -> str:
    from scaledreamer.evaluation.page import data_uri
    from scaledreamer.meshing.export import save_gif

    save_gif(path, asset.turntable(NUM_FRAMES, FRAME_SIZE), fps=8)
    return data_uri(path)


def _world(config: Config) -> str:
    prompts = config.prompts
    kinds = f"{len(prompts.kinds)} of {len(grammar.KINDS)}" if prompts.kinds else f"all {len(grammar.KINDS)}"
    extras = ("nothing", "at most one thing", "at most two things")[prompts.max_extras]
    return f"captions of the tinyworld ({kinds} kinds; {extras} said beyond kind and colour)"


def _flags(part: dict[str, Any]) -> str:
    kinds = f"--kinds {','.join(part['kinds'])!r} " if part["kinds"] else ""
    return f"{kinds}--max-extras {part['max_extras']} " if part["max_extras"] != grammar.MAX_EXTRAS else kinds


def _shell(words: Sequence[str]) -> str:
    return " ".join(f"'{word}'" if " " in word else word for word in words)


if __name__ == "__main__":
    sys.exit(main())
