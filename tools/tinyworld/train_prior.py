"""Trains the tinyworld's text-to-image prior from nothing: text encoder, autoencoder, then the denoising
UNet.

    python -m tools.tinyworld.train_prior text autoencoder unet --minutes 60
    python -m tools.tinyworld.train_prior export

Each stage trains for `--minutes` and stops; the same command goes on from there until the stage's steps are
done. On a CPU, views of the world are traced once into `--work`/views; on a GPU they are traced when a stage
starts.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (diffusers declares the types of its constructors and loaders too narrowly)

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaledreamer.cli import program
from scaledreamer.priors.stable_diffusion import StableDiffusionPrior
from scaledreamer.prompts.conditioner import TextConditioner
from scaledreamer.prompts.view_words import BACK, FRONT, VIEW_WORDS, with_view
from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.text import ATTRIBUTE_VALUES, MAX_TOKENS, attribute_labels, build_tokenizer
from tools.tinyworld.prior_networks import (
    TEXT_WIDTH,
    build_autoencoder,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from tools.tinyworld.training import (
    PiecewiseTraining,
    ViewPool,
    draw_caption,
    load_module,
    start_record,
    write_training,
)

NUM_MEASURED = 256
"""Images over which the latents' spread is measured."""
SAMPLE_PROMPTS = [
    with_view(text, view)
    for text in (
        "a red-eyed tree frog",
        "a cat wearing a blue hat",
        "a robot",
        "a spotted mug on a green box",
    )
    for view in (FRONT, BACK)
]
STAGES = ("text", "autoencoder", "unet", "export")


def tokenize(tokenizer, texts: list[str]) -> Tensor:
    """Token ids padded to the full length, as Stable Diffusion pipelines do."""
    batch = tokenizer(
        texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    )
    return batch.input_ids


def load_tokenizer(work: Path):
    """The tokenizer that the text stage was trained with; made and written down where there is none yet."""
    from transformers import CLIPTokenizer

    folder = work / "text" / "tokenizer"
    if not folder.is_dir():
        build_tokenizer().save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


class TextProbe(nn.Module):
    """The text encoder with linear heads that read every attribute, and the view, from its pooled output."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder: Any = encoder
        sizes = {name: len(values) for name, values in ATTRIBUTE_VALUES.items()} | {"view": 5}
        self.heads = nn.ModuleDict({name: nn.Linear(TEXT_WIDTH, size) for name, size in sizes.items()})

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        pooled = self.encoder(ids).pooler_output
        return {name: head(pooled) for name, head in self.heads.items()}


def draw_captions(seed: int, count: int, split: str) -> tuple[list[str], dict[str, Tensor]]:
    """Captions of one split with their attributes' labels; half of them with a view word (view 4: none)."""
    rng = random.Random(seed)
    meanings = [grammar.sample_meaning(rng, split) for _ in range(count)]
    views = [rng.choice((0, 1, 2, 3, 4, 4, 4, 4)) for _ in meanings]
    texts = [
        draw_caption(m, v, rng, view_word_rate=float(v < 4)) for m, v in zip(meanings, views, strict=True)
    ]
    return texts, attribute_labels(meanings) | {"view": torch.tensor(views)}


def train_text(args: argparse.Namespace) -> None:
    """Text encoder: its pooled output must tell every attribute of a caption to a linear reader."""
    tokenizer = load_tokenizer(args.work)
    torch.manual_seed(args.seed)
    probe = TextProbe(build_text_encoder(tokenizer)).to(args.device)

    def losses(step: int) -> dict[str, Tensor]:
        texts, labels = draw_captions(step, 96, "seen")
        logits = probe(tokenize(tokenizer, texts).to(args.device))
        return {
            n: F.cross_entropy(logits[n], labels[n].to(args.device), label_smoothing=0.02) for n in logits
        }

    training = PiecewiseTraining(
        "text",
        args.work / "text",
        probe,
        losses,
        num_steps=args.text_steps,
        learning_rate=1e-3,
        ema_decay=0.99,
    )
    for _ in training.ticks(args.minutes):
        texts, labels = draw_captions(10**9, 512, "validation")
        with torch.no_grad():
            logits = probe(tokenize(tokenizer, texts).to(args.device))
        accuracy = {n: (logits[n].cpu().argmax(-1) == labels[n]).float().mean().item() for n in logits}
        print("  held-out accuracy " + "  ".join(f"{n} {a:.3f}" for n, a in accuracy.items()), flush=True)


def to_signed(images: Tensor) -> Tensor:
    """[0, 1] to the networks' [-1, 1], in their memory format."""
    return (images * 2 - 1).contiguous(memory_format=torch.channels_last)


def psnr(restored: Tensor, images: Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB, both in [0, 1]."""
    error = ((restored.clamp(0, 1) - images) ** 2).flatten(1).mean(1)
    return (-10 * torch.log10(error)).mean().item()


def train_autoencoder(args: argparse.Namespace) -> None:
    """Autoencoder: crops for most steps (they hold mostly object), whole images at the end."""
    torch.manual_seed(args.seed)
    autoencoder = build_autoencoder().to(args.device)
    pool = ViewPool(args.work / "views", "seen", args.num_shards, args.device)
    held_out = ViewPool(args.work / "views", "validation", 1, args.device)
    whole_from = int(0.7 * args.autoencoder_steps)

    def losses(step: int) -> dict[str, Tensor]:
        images, *_ = pool.draw(16 if step >= whole_from else 40, step)
        if step < whole_from:
            rng = random.Random(step)
            top, left = (round(rng.triangular(0, 24, 12)) for _ in range(2))
            images = images[..., top : top + 40, left : left + 40]
        target = to_signed(images)
        generator = torch.Generator().manual_seed(step)
        posterior = autoencoder.encode(target).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(args.device)
        error = autoencoder.decode(posterior.mean + posterior.std * noise).sample - target
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return {"l1": 0.2 * error.abs().mean(), "l2": error.square().mean(), "kl": 1e-4 * kl}

    training = PiecewiseTraining(
        "autoencoder",
        args.work / "autoencoder",
        autoencoder,
        losses,
        num_steps=args.autoencoder_steps,
        learning_rate=2e-3,
        weight_decay=1e-4,
    )
    averaged = build_autoencoder().to(args.device).eval()
    for step in training.ticks(args.minutes):
        training.load_ema_into(averaged)
        images, *_ = held_out.draw(64, 0)
        with torch.no_grad():
            restored = averaged.decode(averaged.encode(to_signed(images)).latent_dist.mode()).sample / 2 + 0.5
        value = psnr(restored, images)
        print(f"  held-out PSNR {value:.2f} dB", flush=True)
        training.writer.add_scalar("autoencoder/psnr", value, step)
        pairs = torch.cat([images[:8], restored[:8].clamp(0, 1)], 2)
        training.writer.add_images("autoencoder/samples", pairs, step)


def exported(pipeline: Path, part: str) -> Any:
    """One network of an exported pipeline, float32."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    kind = {"text_encoder": CLIPTextModel, "vae": AutoencoderKL, "unet": UNet2DConditionModel}[part]
    return kind.from_pretrained(pipeline / part, torch_dtype=torch.float32, local_files_only=True)


def trained_text(args: argparse.Namespace) -> tuple[Any, Any]:
    """Tokenizer and frozen text encoder: of this folder's text stage, or of the pipeline to go on from."""
    if args.restart and not (args.work / "text" / "state.pt").exists():
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(args.restart / "tokenizer")
        encoder = exported(args.restart, "text_encoder").eval().requires_grad_(False)
    else:
        tokenizer = load_tokenizer(args.work)
        encoder = load_module(args.work / "text", TextProbe(build_text_encoder(tokenizer))).encoder
    return tokenizer, encoder.to(args.device)


def trained_autoencoder(args: argparse.Namespace) -> Any:
    """Frozen autoencoder: of this folder's autoencoder stage, or of the pipeline to go on from."""
    if args.restart and not (args.work / "autoencoder" / "state.pt").exists():
        found = exported(args.restart, "vae").eval().requires_grad_(False)
    else:
        found = load_module(args.work / "autoencoder", build_autoencoder())
    return found.to(args.device, memory_format=torch.channels_last)


def scaling_factor(args: argparse.Namespace, autoencoder: Any) -> float:
    """One over the standard deviation of latents; an exported autoencoder's own where training goes on from
    it."""
    if args.restart and not (args.work / "autoencoder" / "state.pt").exists():
        return autoencoder.config.scaling_factor
    pool = ViewPool(args.work / "views", "seen", args.num_shards, args.device)
    images, *_ = pool.draw(NUM_MEASURED, 0)
    with torch.no_grad():
        return 1 / autoencoder.encode(to_signed(images)).latent_dist.mode().std().item()


def _view_weights(pool: ViewPool) -> Tensor:
    """How often to draw each view: three of four have a front, and each view word then the same share."""
    weights = torch.zeros(len(pool.views))
    has_front = torch.tensor([grammar.KINDS[meaning.kind].has_front for meaning in pool.views.meanings])
    view = torch.tensor(pool.view)
    groups = [(~has_front, 0.25)] + [(has_front & (view == v), 0.75 / 4) for v in range(len(VIEW_WORDS))]
    for is_member, share in groups:
        weights[is_member] = share / max(int(is_member.sum()), 1)
    return weights


def train_unet(args: argparse.Namespace) -> None:
    """UNet: v-prediction, frozen text encoder and autoencoder, a tenth of captions empty.

    From which side a thing is seen is decided at the noisiest timesteps and shows on kinds with a front
    alone, so both are drawn more often: t of density 2t on [0, 1], and those kinds for three of four images,
    with each view word equally often (cameras all around see sides four times as often as fronts).
    """
    tokenizer, encoder = trained_text(args)
    autoencoder = trained_autoencoder(args)
    pool = ViewPool(args.work / "views", "seen", args.num_shards, args.device)
    weights = _view_weights(pool)
    scale = scaling_factor(args, autoencoder)
    torch.manual_seed(args.seed)
    unet = build_unet().to(args.device)
    if args.restart:
        start_record(args.work / "prior_restart.json", args.restart)
        found = unet.load_state_dict(exported(args.restart, "unet").state_dict(), strict=False)
        print(f"unet: starts from {args.restart}; new are {found.missing_keys or 'none'}", flush=True)
    alpha_bar = build_scheduler().alphas_cumprod.to(args.device)

    def losses(step: int) -> dict[str, Tensor]:
        rng, generator = random.Random(step), torch.Generator().manual_seed(step)
        images, _, meanings, views = pool.draw(args.batch_size, step, weights=weights)
        texts = [
            "" if rng.random() < 0.1 else draw_caption(m, v, rng, view_word_rate=0.95)
            for m, v in zip(meanings, views, strict=True)
        ]
        t = (1000 * torch.rand(len(texts), generator=generator).sqrt()).long().clamp(max=999)
        t = t.to(args.device)
        with torch.no_grad():
            latents = autoencoder.encode(to_signed(images)).latent_dist.mode() * scale
            tokens = encoder(tokenize(tokenizer, texts).to(args.device)).last_hidden_state
        noise = torch.randn(latents.shape, generator=generator).to(args.device)
        alpha, sigma = (
            alpha_bar[t].sqrt()[:, None, None, None],
            (1 - alpha_bar[t]).sqrt()[:, None, None, None],
        )
        predicted = unet(alpha * latents + sigma * noise, t, tokens).sample
        return {"v": F.mse_loss(predicted, alpha * noise - sigma * latents)}

    training = PiecewiseTraining(
        "unet",
        args.work / "unet",
        unet,
        losses,
        num_steps=args.unet_steps,
        learning_rate=args.unet_rate,
        ema_decay=0.999,
    )
    averaged = build_unet().to(args.device)
    autoencoder.register_to_config(scaling_factor=scale)
    prior = StableDiffusionPrior(autoencoder, averaged, encoder, tokenizer, alpha_bar, "v_prediction")
    noise = torch.randn(len(SAMPLE_PROMPTS), *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    for step in training.ticks(args.minutes):
        if step % 500 == 0 or step == args.unet_steps:
            training.load_ema_into(averaged)
            images = prior.sample(SAMPLE_PROMPTS, noise.to(args.device), guidance_scale=4.0, num_steps=20)
            training.writer.add_images("unet/samples", images, step)


def export(args: argparse.Namespace) -> None:
    """Writes the pipeline in the diffusers layout, fp16 safetensors."""
    from diffusers import StableDiffusionPipeline

    tokenizer, encoder = trained_text(args)
    autoencoder = trained_autoencoder(args)
    unet = load_module(args.work / "unet", build_unet())
    autoencoder.register_to_config(scaling_factor=scaling_factor(args, autoencoder))
    parts: dict[str, Any] = dict(
        vae=autoencoder,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipeline = StableDiffusionPipeline(**parts).to(torch.float16)
    pipeline.save_pretrained(args.out, safe_serialization=True)
    TextConditioner(encoder, tokenizer, grammar.vocabulary()).save_pretrained(args.out)
    if args.restart:
        start_record(args.work / "prior_restart.json", args.restart)
    stages = {stage: args.work / stage for stage in ("text", "autoencoder", "unet")}
    write_training(args.out, args.work / "prior_restart.json", stages)
    print(f"wrote {args.out}: {sum(f.stat().st_size for f in args.out.rglob('*.safetensors')) / 1e6:.1f} MB")


@program
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="+", choices=STAGES, help="what to train, in this order")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="of training in this piece, for each stage"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/tinyworld"), help="views and training states"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("scaledreamer/assets/tiny_prior"), help="of `export`"
    )
    parser.add_argument(
        "--restart",
        type=Path,
        help="an exported pipeline to go on from, where there is no training state: weights only, a new rate",
    )
    parser.add_argument("--num-shards", type=int, default=24, help="thousands of views to train on")
    parser.add_argument("--text-steps", type=int, default=2000)
    parser.add_argument("--autoencoder-steps", type=int, default=3600)
    parser.add_argument("--unet-steps", type=int, default=40_000)
    parser.add_argument("--unet-rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--batch-size", type=int, default=32, help="of the UNet")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to torch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    run = {"text": train_text, "autoencoder": train_autoencoder, "unet": train_unet, "export": export}
    for stage in args.stages:
        run[stage](args)


if __name__ == "__main__":
    sys.exit(main())
