"""Fits a generator directly to ground-truth views of the tinyworld by image loss: the score no distillation
exceeds.

    python -m tools.tinyworld.fit_oracle --config configs/tiny.yaml --minutes 20 --out outputs/oracle
    scaledreamer evaluate --checkpoint outputs/oracle/generator --split unseen --out outputs/oracle.json

Architecture, conditioner and renderer are those of the configuration; only the teacher differs. If this
cannot reach a bar, the architecture is at fault and not the distillation. Exit status: 0 done; 2 bad input,
nothing was fitted.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from scaledreamer import generators, rendering
from scaledreamer.cameras import Cameras
from scaledreamer.cli import Parser, fail, program
from scaledreamer.config import load_config
from scaledreamer.draws import GivenDraws
from scaledreamer.exported import INDEX
from scaledreamer.pipeline import TextTo3D
from scaledreamer.prompts.conditioner import make_conditioner
from scaledreamer.tinyworld import dataset, grammar
from scaledreamer.training.optimizers import AveragedWeights
from tools.tinyworld.training import ViewPool, cosine_rate


def draw(pool: ViewPool, count: int, seed: int, size: int) -> tuple[list[str], Cameras, Tensor, Tensor]:
    """Prompts, one camera each, ground-truth images (count, 3, size, size) and their plain backgrounds."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    index = torch.randint(len(pool.views), (count,), generator=generator)
    meanings = [dataset.recolor(pool.views.meanings[i], rng, pool.split) for i in index.tolist()]
    backgrounds = dataset.draw_backgrounds(generator, count)
    views = pool.views
    images, _ = dataset.paint_views(views.surface[index], views.light[index], meanings, backgrounds, size)
    cameras = Cameras(*(value[index] for value in vars(views.cameras).values()))
    prompts = [grammar.caption(meaning, rng.randrange(1 << 20)) for meaning in meanings]
    return prompts, cameras, images, backgrounds


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, count = parser.add_argument, _above_zero(int, "whole numbers")
    number = _above_zero(float, "numbers")
    add("--config", default="configs/tiny.yaml", metavar="FILE", help="(%(default)s)")
    add("--minutes", type=number, default=20.0, metavar="N", help="at most (%(default)s)")
    add("--steps", type=count, default=3000, metavar="N", help="at most (%(default)s)")
    add("--lr", type=number, default=4e-3, metavar="RATE", help="at the start (%(default)s)")
    objects = "objects a step, one view each (%(default)s)"
    add("--batch-size", type=count, default=8, metavar="N", help=objects)
    views = "traced views, made there if missing (%(default)s)"
    add("--work", type=Path, default=Path("outputs/tinyworld"), metavar="DIR", help=views)
    shards = "of a thousand views to learn from, two or three minutes each to make (%(default)s)"
    add("--num-shards", type=count, default=13, metavar="N", help=shards)
    add("--out", type=Path, default=Path("outputs/oracle"), metavar="DIR", help="(%(default)s)")
    add("overrides", nargs="*", metavar="key.path=value", help="settings that go before the file's")
    return parser


def _above_zero(kind: type[int] | type[float], accepted: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"got {text!r}; accepted are {accepted} above 0")
        return value

    return parse


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    args = make_parser().parse_intermixed_args(argv)
    try:
        fit(args)
    except ValueError as error:
        return fail(error)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def check_out(folder: Path) -> None:
    """Raises ValueError, before anything is fitted, if the fitted generator could not be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {folder}: cannot be made ({error.strerror}); give another folder") from None
    generator = folder / "generator"
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"--out {folder}: no permission to write in it; give another folder")
    if generator.exists() and not (generator / INDEX).is_file() and any(generator.iterdir()):
        raise ValueError(f"--out {folder}: its generator/ is no exported generator; give another folder")


def fit(args: argparse.Namespace) -> list[float]:
    """Fits and exports; returns the mean PSNR on held-out views in dB, each time that it was taken.

    Raises: ValueError or OSError for what is wrong with the configuration, the views or the folder.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = load_config(args.config, args.overrides)
    generators.backend_line(config.generator, torch.device("cpu"))
    check_out(args.out)
    torch.manual_seed(config.seed)
    conditioner = make_conditioner(config.conditioner, config.weights, "cpu")
    settings = generators.constructor_settings(
        config.generator, condition_dim=conditioner.condition_dim, token_dim=conditioner.token_dim
    )
    generator = generators.make(config.generator.name, settings)
    renderer = rendering.configured(config.renderer)
    size = config.renderer.largest_image_size
    pool = ViewPool(args.work / "views", "seen", args.num_shards, "cpu")
    held_out = ViewPool(args.work / "views", "validation", 1, "cpu")
    averaged = AveragedWeights(generator, 0.995)
    optimizer = torch.optim.Adam(generator.parameters(), lr=args.lr, betas=(0.9, 0.99), eps=1e-15)
    print(f"{sum(p.numel() for p in generator.parameters())} parameters", flush=True)

    def render(
        module, prompts: list[str], cameras: Cameras, backgrounds: Tensor, jitter: Tensor | None, seed: int
    ) -> Tensor:
        z = None
        if module.has_noise:
            z = torch.randn(len(prompts), module.noise_dim, generator=torch.Generator().manual_seed(seed))
        scene = module(conditioner(prompts), z)
        draws = None if jitter is None else GivenDraws({"jitter": jitter})
        return renderer(scene, cameras, size, size, draws=draws, background=backgrounds[:, None]).rgb[:, 0]

    started, losses, held_out_psnr = time.time(), [], []
    for step in range(args.steps):
        if time.time() - started > 60 * args.minutes:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.lr * cosine_rate(step, args.steps)
        prompts, cameras, images, backgrounds = draw(pool, args.batch_size, step, size)
        jitter = torch.rand(args.batch_size, 1, size, size, generator=torch.Generator().manual_seed(step))
        loss = F.mse_loss(render(generator, prompts, cameras, backgrounds, jitter, step), images)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        averaged.update(generator, step)
        losses.append(loss.item())
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            prompts, cameras, images, backgrounds = draw(held_out, 64, 0, size)
            with torch.no_grad():
                restored = render(averaged.module, prompts, cameras, backgrounds, None, 0)
            psnr = (-10 * torch.log10(((restored - images) ** 2).flatten(1).mean(1))).mean().item()
            held_out_psnr.append(psnr)
            mean = sum(losses[-250:]) / len(losses[-250:])
            took = (time.time() - started) / 60
            print(
                f"step {step + 1}  loss {mean:.5f}  held-out PSNR {psnr:.2f} dB  {took:.1f} min", flush=True
            )
    pipe = TextTo3D(
        conditioner,
        averaged.module,
        generator_name=config.generator.name,
        cameras=config.cameras.model_dump(),
        renderer=rendering.index_section(config.renderer),
        step=len(losses),
    )
    pipe.save_pretrained(args.out / "generator")
    print(f"wrote {args.out / 'generator'}")
    return held_out_psnr


if __name__ == "__main__":
    sys.exit(main())
