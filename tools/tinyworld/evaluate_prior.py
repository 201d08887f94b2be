"""Scores the tinyworld's prior: does it draw what held-out captions and view words say?

    python -m tools.tinyworld.evaluate_prior --num-captions 256 --split unseen --out outputs/prior.json
        --sheet docs/prior.png

Each caption is sampled once with each of the four view words; the four images are pooled like an asset's
views. The ceiling is the same with ground-truth renders from cameras that the view words describe. Guidance
is chosen on the validation split where several values are given.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from scaledreamer.cameras import Cameras
from scaledreamer.cli import program
from scaledreamer.evaluation.clip_scores import TINY_CLIP, TinyClip, hard_retrieval, pool_views
from scaledreamer.evaluation.report import save_sheet
from scaledreamer.priors.stable_diffusion import StableDiffusionPrior
from scaledreamer.prompts.view_words import VIEW_WORDS, view_index, with_view
from scaledreamer.tinyworld import dataset, grammar
from scaledreamer.tinyworld.grammar import KINDS, Meaning
from scaledreamer.weights.places import TINY_PRIOR

CHUNK = 64


def true_images(meanings: list[Meaning], seed: int) -> Tensor:
    """Ground-truth renders "caption view 3 64 64", one camera of the prior's data for each view word."""
    generator = torch.Generator().manual_seed(seed)
    drawn = dataset.draw_cameras(generator, 4000)
    index = view_index(drawn.elevation, drawn.azimuth)[:, 0]
    columns = []
    for view in range(len(VIEW_WORDS)):
        rows = (index == view).nonzero().flatten()
        rows = rows[torch.randint(len(rows), (len(meanings),), generator=generator)]
        images = []
        for first in range(0, len(meanings), 2):
            part = meanings[first : first + 2]
            cameras = Cameras(*(value[rows[first : first + 2]] for value in vars(drawn).values()))
            views = dataset.trace_views(part, cameras, 64)
            grounds = dataset.draw_backgrounds(generator, len(part))
            images.append(dataset.paint_views(views.surface, views.light, part, grounds, 64)[0])
        columns.append(torch.cat(images))
    return torch.stack(columns, 1)


def drawn_images(
    prior: StableDiffusionPrior, meanings: list[Meaning], guidance_scale: float, seed: int, num_steps: int
) -> Tensor:
    """The prior's samples "caption view 3 64 64" of each caption with each view word."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    texts = [grammar.caption(meaning, rng.randrange(1 << 20)) for meaning in meanings]
    prompts = [with_view(text, view) for text in texts for view in range(len(VIEW_WORDS))]
    noise = torch.randn(len(prompts), *prior.latent_shape, generator=generator)
    parts = [
        prior.sample(
            prompts[i : i + CHUNK], noise[i : i + CHUNK], guidance_scale=guidance_scale, num_steps=num_steps
        )
        for i in range(0, len(prompts), CHUNK)
    ]
    return torch.cat(parts).unflatten(0, (len(meanings), len(VIEW_WORDS)))


def view_accuracy(encoder: TinyClip, images: Tensor, meanings: list[Meaning]) -> float:
    """How often CLIP reads the right one of the four view words, on kinds with a front."""
    right = []
    for meaning, views in zip(
        meanings, encoder.embed_images(images.flatten(0, 1)).unflatten(0, (-1, 4)), strict=True
    ):
        if KINDS[meaning.kind].has_front:
            texts = encoder.embed_texts([with_view(grammar.caption(meaning), view) for view in range(4)])
            right.append(((views @ texts.T).argmax(1) == torch.arange(4)).float())
    return torch.stack(right).mean().item()


def scores(encoder: TinyClip, images: Tensor, meanings: list[Meaning]) -> dict[str, float]:
    """Hard R@1 overall and by attribute, and view-word accuracy."""
    found = hard_retrieval(encoder, pool_views(encoder, images), meanings)
    by_attribute = {f"hard_r1/{name}": won.nanmean().item() for name, won in found.by_attribute.items()}
    accuracy = view_accuracy(encoder, images, meanings)
    return {"hard_r1": found.overall.mean().item(), **by_attribute, "view_accuracy": accuracy}


@program
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prior", type=Path, default=TINY_PRIOR)
    parser.add_argument("--clip", type=Path, default=TINY_CLIP)
    parser.add_argument("--split", choices=grammar.SPLITS, default="unseen")
    parser.add_argument("--num-captions", type=int, default=256)
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0, 5.0, 7.5])
    parser.add_argument("--num-steps", type=int, default=25, help="of the sampler")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/prior.json"))
    parser.add_argument("--sheet", type=Path, help="contact sheet: every kind with each view word")
    args = parser.parse_args()

    prior, encoder = StableDiffusionPrior.from_pretrained(args.prior), TinyClip.from_pretrained(args.clip)

    def draw(split: str, count: int) -> list[Meaning]:
        rng = random.Random(f"{args.seed} {split}")
        return [grammar.sample_meaning(rng, split) for _ in range(count)]

    best, chosen_on = args.guidance[0], {}
    if len(args.guidance) > 1:
        meanings = draw("validation", 64)
        for scale in args.guidance:
            images = drawn_images(prior, meanings, scale, args.seed, args.num_steps)
            chosen_on[scale] = scores(encoder, images, meanings)["hard_r1"]
            print(f"guidance {scale}: hard R@1 {chosen_on[scale]:.3f} on validation", flush=True)
        best = max(chosen_on, key=lambda scale: chosen_on[scale])
    meanings = draw(args.split, args.num_captions)
    ceiling = scores(encoder, true_images(meanings, args.seed), meanings)
    value = scores(encoder, drawn_images(prior, meanings, best, args.seed, args.num_steps), meanings)
    report = {
        "split": args.split,
        "num_captions": len(meanings),
        "guidance_scale": best,
        "guidance_chosen_on": chosen_on,
        "scores": {name: {"value": value[name], "ceiling": ceiling[name]} for name in value},
        "hard_r1_relative": value["hard_r1"] / max(ceiling["hard_r1"], 1e-9),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    for name in value:
        print(f"{name:24s} {value[name]:.3f}  ceiling {ceiling[name]:.3f}")
    print(f"hard R@1 relative to ground truth {report['hard_r1_relative']:.3f}")
    if args.sheet:
        plain = [
            replace(Meaning(kind.name, kind.color), part_color=kind.part_color) for kind in KINDS.values()
        ]
        images = drawn_images(prior, plain, best, args.seed + 1, 40)
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        save_sheet(args.sheet, images, [grammar.caption(meaning) for meaning in plain])


if __name__ == "__main__":
    sys.exit(main())
