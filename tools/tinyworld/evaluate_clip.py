"""Scores the tinyworld's CLIP on ground truth: can it tell what held-out objects are?

    python -m tools.tinyworld.evaluate_clip --num-meanings 256 --split unseen --out outputs/clip.json

Four views around each true object are pooled, as an asset's are. Captions are wrong only in attributes that
at least one of the views shows in `--min-pixels` or more. The views are traced like the training's, and drawn
by the volume renderer that assets are scored with.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaledreamer import rendering
from scaledreamer.cameras import Cameras
from scaledreamer.cli import program
from scaledreamer.evaluation import janus_cache
from scaledreamer.evaluation.clip_scores import (
    TINY_CLIP,
    TinyClip,
    hard_retrieval,
    plain_retrieval,
    pool_views,
)
from scaledreamer.evaluation.draws import Draw, draw_prompts
from scaledreamer.evaluation.ground_truth import BACKGROUND, Observer
from scaledreamer.evaluation.janus import make_janus_test
from scaledreamer.tinyworld import dataset, grammar
from tools.tinyworld.evaluate_prior import true_images, view_accuracy


def traced_views(draw: Draw, observer: Observer) -> tuple[Tensor, dict[str, Tensor]]:
    """Images "prompt view 3 64 64" from the evaluation's cameras, and each attribute's pixels in the view
    that shows most of it."""
    num_views = observer.num_views
    images, pixels = [], []
    for meaning in draw.meanings:
        cameras = observer.cameras_around(draw.start_azimuth_deg, 1)
        cameras = Cameras(*(value.reshape(num_views, 1) for value in vars(cameras).values()))
        views = dataset.trace_views([meaning] * num_views, cameras, 64)
        ground = torch.tensor(BACKGROUND).expand(num_views, 3)
        images.append(dataset.paint_views(views.surface, views.light, views.meanings, ground, 64)[0])
        pixels.append({name: count.max() for name, count in dataset.visible_pixels(views).items()})
    most = {name: torch.stack([row[name] for row in pixels]) for name in grammar.ATTRIBUTES}
    return torch.stack(images), most


def scores(encoder: TinyClip, images: Tensor, draw: Draw, asked: list[set[str]]) -> dict[str, Any]:
    """Retrieval with the asked attributes and with all, and plain retrieval among all meanings."""
    pooled = pool_views(encoder, images)
    found = hard_retrieval(encoder, pooled, draw.meanings, attributes=asked)
    return {
        "hard_r1": found.overall.mean().item(),
        "hard_r1_by_attribute": {name: won.nanmean().item() for name, won in found.by_attribute.items()},
        "num_distractors": found.num_distractors.float().mean().item(),
        "hard_r1_all_attributes": hard_retrieval(encoder, pooled, draw.meanings).overall.mean().item(),
        "plain_r1": plain_retrieval(encoder, pooled, draw.meanings, len(draw.meanings)).mean().item(),
    }


@program
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clip", type=Path, default=TINY_CLIP)
    parser.add_argument("--split", choices=grammar.SPLITS, default="unseen")
    parser.add_argument("--num-meanings", type=int, default=256)
    parser.add_argument("--min-pixels", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-volume", action="store_true", help="traced views only, which is much faster")
    only = "make the Janus test alone and write it beside the CLIP, where `scaledreamer evaluate` finds it"
    parser.add_argument("--only-janus", action="store_true", help=only)
    parser.add_argument("--out", type=Path, default=Path("outputs/clip.json"))
    args = parser.parse_args()

    encoder = TinyClip.from_pretrained(args.clip)
    observer = Observer(rendering.make().for_scores())
    if args.only_janus:
        test = make_janus_test(encoder, observer)
        key = janus_cache.test_key(encoder.fingerprint, observer)
        janus_cache.save_test(args.clip / janus_cache.FILE, key, test)
        print(json.dumps(test.summary, indent=1))
        return
    draw = draw_prompts(args.seed, args.split, args.num_meanings)
    images, pixels = traced_views(draw, observer)
    rows = range(len(draw.meanings))
    asked = [{name for name in pixels if pixels[name][row] >= args.min_pixels} for row in rows]
    report: dict[str, Any] = {"settings": {k: str(v) for k, v in vars(args).items()}}
    report["traced"] = scores(encoder, images, draw, asked)
    report["view_accuracy"] = view_accuracy(
        encoder, true_images(list(draw.meanings), args.seed), list(draw.meanings)
    )
    if not args.no_volume:
        volumes = observer.observe_truth(draw.meanings, start_azimuth_deg=draw.start_azimuth_deg)
        report["volume"] = scores(encoder, volumes.images, draw, asked)
        report["janus"] = make_janus_test(encoder, observer).summary
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    sys.exit(main())
