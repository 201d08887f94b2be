"""Where distillation's gradient points and how noisy it is. Measured on the tinyworld, where truth is known.

    python -m tools.tinyworld.measure_gradients --checkpoint outputs/tiny --guidance 2 7.5 --eta 0.1 4

A generator's images of training prompts are given to the prior again and again with other noise. For each
method, guidance scale, eta and time t: length of the mean gradient at the image (`signal`), standard
deviation of one gradient (`noise`), cosine between the step that the mean gradient asks for and the way to
the true object's image (`cosine`), and the same cosine for a single gradient (`single`). Gradients are
clipped by PGC and brought to half the image's size, as a renderer of fewer pixels feels them. Nothing is
trained. Exit status: 0 done; 2 bad input.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from scaledreamer import rendering
from scaledreamer.cameras import Cameras, sample_cameras
from scaledreamer.cli import fail, program
from scaledreamer.distillation import clip_gradient, sample_timestep_shift
from scaledreamer.methods.base import Guidance, Timesteps
from scaledreamer.methods.score import ASD, CSD, SDS
from scaledreamer.pipeline import TextTo3D
from scaledreamer.priors.conditioning import Texts
from scaledreamer.priors.stable_diffusion import StableDiffusionPrior
from scaledreamer.prompts.view_words import view_index, with_view
from scaledreamer.schedules import Constant
from scaledreamer.tinyworld import dataset, grammar
from scaledreamer.tinyworld.scene import WorldScene
from scaledreamer.training.judge import upsample
from scaledreamer.weights.places import TINY_PRIOR

T_MIN = 0.02
"""Lower end of t that ASD's shift is measured from."""
TIMESTEPS = Timesteps(Constant(T_MIN), Constant(1.0))


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, help="a run, an exported generator or a hub id (the shipped one)")
    add("--prior", type=Path, default=TINY_PRIOR, help="(%(default)s)")
    add("--method", nargs="+", choices=("asd", "sds", "csd"), default=["asd"])
    add("--guidance", nargs="+", type=float, default=[7.5])
    add("--eta", nargs="+", type=float, default=[0.1], help="of asd")
    add("--timesteps", nargs="+", type=float, default=[0.1, 0.3, 0.5, 0.7, 0.9])
    add("--threshold", type=float, default=1.0, help="c of PGC (%(default)s)")
    add("--num-prompts", type=int, default=16)
    add("--num-noises", type=int, default=12)
    add("--image-size", type=int, default=48, help="pixels that are rendered (%(default)s)")
    add("--seed", type=int, default=0)
    add("--out", type=Path, help="write the numbers there as JSON too")
    return parser


@torch.no_grad()
def render_pairs(
    pipe: TextTo3D, meanings: list[grammar.Meaning], cameras: Cameras, size: int, true_size: int
) -> tuple[Tensor, Tensor]:
    """Images "prompt 3 h w" of generated and of true objects over the same random plain backgrounds."""
    # Without the planes of the training's cameras: those of the world stand elsewhere.
    settings = {name: value for name, value in pipe.renderer.items() if name not in ("name", "near", "far")}
    renderer = rendering.make(pipe.renderer.get("name", "volume"), settings)
    behind = dataset.draw_backgrounds(torch.Generator().manual_seed(0), len(meanings))[:, None]
    generated, true = [], []
    for row in range(len(meanings)):
        one = slice(row, row + 1)
        camera = Cameras(*(value[one] for value in vars(cameras).values()))
        scene = pipe.scenes([grammar.caption(meanings[row])])
        generated.append(renderer(scene, camera, size, size, background=behind[one]).rgb[:, 0])
        scene = WorldScene(meanings[one])
        true.append(renderer(scene, camera, true_size, true_size, background=behind[one]).rgb[:, 0])
    return torch.cat(generated), torch.cat(true)


def statistics(gradients: Tensor, way: Tensor) -> dict[str, float]:
    """Means over prompts.

    Args:
        gradients: "noise prompt 3 h w".
        way: generated minus true image, "prompt 3 h w": what a perfect gradient is parallel to.
    """
    count, mean = len(gradients), gradients.mean(0)
    variance = (gradients - mean).square().sum((0, 2, 3, 4)) / (count - 1)
    signal = (mean.square().sum((1, 2, 3)) - variance / count).clamp(min=1e-12)  # unbiased
    along = (mean * way).sum((1, 2, 3)) / way.flatten(1).norm(dim=1)
    return {
        "signal": signal.sqrt().mean().item(),
        "noise": variance.sqrt().mean().item(),
        "cosine": (along / signal.sqrt()).mean().item(),
        "single": (along / (signal + variance).sqrt()).mean().item(),
    }


@program
def main() -> int:
    args = make_parser().parse_args()
    try:
        pipe = TextTo3D.from_pretrained(args.checkpoint, device="cpu")
        prior = StableDiffusionPrior.from_pretrained(args.prior)
        if args.num_noises < 2 or args.num_prompts < 1:
            raise ValueError("--num-noises takes 2 or more, --num-prompts 1 or more")
        if not all(T_MIN <= t < 1 for t in args.timesteps):
            raise ValueError(f"--timesteps: got {args.timesteps}; accepted is {T_MIN} to below 1")
    except ValueError as error:
        return fail(error)
    rng, generator = random.Random(args.seed), torch.Generator().manual_seed(args.seed)
    meanings = [grammar.sample_meaning(rng, "seen") for _ in range(args.num_prompts)]
    uniforms = torch.rand(len(meanings), 1, 4, generator=generator)
    cameras = sample_cameras(
        uniforms,
        elevation_deg=dataset.LOW_ELEVATION_DEG,
        distance=dataset.DISTANCE,
        fov_deg=dataset.FOV_DEG,
    )
    words = view_index(cameras.elevation, cameras.azimuth)[:, 0].tolist()
    prompts = [with_view(grammar.caption(m), word) for m, word in zip(meanings, words, strict=True)]
    images, true = render_pairs(pipe, meanings, cameras, args.image_size, prior.image_size)
    images = upsample(images, prior.image_size)
    way = F.avg_pool2d(images - true, 2)
    rows = []
    for method, scale, eta, t in itertools.product(args.method, args.guidance, args.eta, args.timesteps):
        conditions = Texts(lambda texts: prior.encode_text(list(texts))).plain(prompts)
        guidance = Guidance(scale)
        gradients = []
        for number in range(args.num_noises):
            draw = torch.Generator().manual_seed(number)
            noise = torch.randn(len(images), *prior.latent_shape, generator=draw)
            times = torch.full((len(images),), t)
            shift = sample_timestep_shift(times, T_MIN, eta, torch.rand(len(images), generator=draw))
            x = images.clone().requires_grad_()
            latents = prior.encode_image(x)
            given = (prior, latents.detach(), conditions, noise, times)
            if method == "asd":
                g_z = ASD(TIMESTEPS, guidance, eta).estimate(*given, shift)
            else:
                g_z = (SDS(TIMESTEPS, guidance) if method == "sds" else CSD(TIMESTEPS)).estimate(*given)
            (g_x,) = torch.autograd.grad(latents, x, g_z)
            gradients.append(F.avg_pool2d(clip_gradient(g_x, args.threshold)[0], 2))
        row = {"method": method, "guidance_scale": scale, "eta": eta, "t": t}
        row |= statistics(torch.stack(gradients), way)
        rows.append(row)
        print(
            "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{v}" for k, v in row.items()), flush=True
        )
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
