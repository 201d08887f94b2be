"""Trains the tinyworld's CLIP from nothing, on other renders than the prior's. It is only ever used to
evaluate.

    python -m tools.tinyworld.train_clip text image export --minutes 60

Every attribute's value, and every view word, has a direction of its own in the embedding, all of them
orthogonal. A caption's embedding is the sum of what it says, and the text tower learns to write that sum. The
image tower learns to tell, along the directions of each attribute, the right value from all the others: the
contrast with every caption that is wrong in one attribute, at the price of a few products.
Training stops after `--minutes` for each stage; the same command goes on until its steps are done.
"""

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
from scaledreamer.evaluation.clip_scores import TinyClip, hard_retrieval
from scaledreamer.prompts.view_words import VIEW_WORDS, with_view
from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.distractors import hard_distractors
from scaledreamer.tinyworld.grammar import KINDS
from scaledreamer.tinyworld.text import ATTRIBUTE_VALUES, MAX_TOKENS, attribute_labels, build_tokenizer
from tools.tinyworld.training import (
    PiecewiseTraining,
    ViewPool,
    draw_caption,
    load_module,
    start_record,
    write_training,
)

STAGES = ("text", "image", "export")
WIDTH = 128
FIRST_SHARD = 500
"""The prior's views have lower numbers: no render is shared."""
NUM_HELD_OUT = 256
VIEW_WEIGHT = 3.0
"""Of the view word in the image tower's loss: it is what that tower is slowest to learn."""
NUM_VALUES = {name: len(values) for name, values in ATTRIBUTE_VALUES.items()} | {"view": len(VIEW_WORDS) + 1}
"""Of each attribute; the last view is that of a caption without a view word."""


def build_clip(tokenizer) -> Any:
    """A CLIPModel of 2.1 M parameters: 8 pixel patches into a width of 192, which loses nothing of them."""
    from transformers import CLIPConfig, CLIPModel

    text = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "image_size": 64,
        "patch_size": 8,
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_attention_heads": 6,
        "num_hidden_layers": 5,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


class Tower(nn.Module):
    """One side of a CLIP with the directions of all values, which are drawn once and fixed.

    Args:
        clip: CLIPModel, of which only this side is trained.
        side: "text" or "image".
    """

    codes: Tensor

    def __init__(self, clip: Any, side: str) -> None:
        super().__init__()
        self.clip: Any = clip
        model, projection = {
            "text": (clip.text_model, clip.text_projection),
            "image": (clip.vision_model, clip.visual_projection),
        }[side]
        clip.requires_grad_(False)
        model.requires_grad_(True)
        projection.requires_grad_(True)
        frame = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))).Q
        self.register_buffer("codes", frame[: sum(NUM_VALUES.values())])
        self.log_scale = nn.Parameter(torch.tensor(3.4))

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors of images in [0, 1]."""
        return F.normalize(self.clip.get_image_features(pixel_values=images * 2 - 1).pooler_output, dim=-1)

    def embed_texts(self, ids: Tensor) -> Tensor:
        """Unit vectors of token ids."""
        return F.normalize(self.clip.get_text_features(input_ids=ids).pooler_output, dim=-1)

    def naming_losses(self, embedded: Tensor, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy of each attribute's value, read along the directions of that attribute's values."""
        scale = self.log_scale.clamp(max=4.6).exp()
        logits = (scale * embedded @ self.codes.T).split(list(NUM_VALUES.values()), 1)
        return {
            name: F.cross_entropy(each, labels[name].to(embedded.device))
            for name, each in zip(NUM_VALUES, logits, strict=True)
        }

    def sum_of_codes(self, labels: dict[str, Tensor]) -> Tensor:
        """Unit vectors: what captions with these values should be embedded as."""
        rows, first = [], 0
        for name, count in NUM_VALUES.items():
            rows.append(self.codes[first + labels[name].to(self.codes.device)])
            first += count
        return F.normalize(torch.stack(rows).sum(0), dim=-1)


def draw_texts(seed: int, count: int, split: str | None) -> tuple[list[str], dict[str, Tensor]]:
    """Captions with their values; half of them with a view word. Some hold one extra more than the world's
    meanings do, as distractors may; these belong to no split."""
    rng = random.Random(seed)
    meanings = []
    for _ in range(count):
        meaning = grammar.sample_meaning(rng, split)
        if rng.random() < 0.4:
            _, other = rng.choice(hard_distractors(meaning))
            if grammar.num_extras(other) > grammar.MAX_EXTRAS or grammar.split_of(other) == split:
                meaning = other
        meanings.append(meaning)
    views = [rng.choice((0, 1, 2, 3, 4, 4, 4, 4)) for _ in meanings]
    texts = [
        draw_caption(m, v, rng, view_word_rate=float(v < 4)) for m, v in zip(meanings, views, strict=True)
    ]
    return texts, attribute_labels(meanings) | {"view": torch.tensor(views)}


def tokenize(tokenizer, texts: list[str]) -> Tensor:
    """Token ids padded to the longest text."""
    return tokenizer(
        texts, padding=True, max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


def start_tower(args: argparse.Namespace, side: str) -> Tower:
    """A new tower, or that of the exported CLIP to go on from (a warm restart: no optimizer)."""
    from transformers import CLIPModel

    torch.manual_seed(args.seed)
    tower = Tower(build_clip(build_tokenizer()), side)
    if args.restart:
        found: Any = CLIPModel.from_pretrained(str(args.restart), dtype=torch.float32, local_files_only=True)
        tower.clip.load_state_dict(found.state_dict())
        written = start_record(args.work / "clip_restart.json", args.restart)
        tower.log_scale.data.fill_(written[side]["log_scale"])
        print(f"clip {side}: starts from {args.restart}", flush=True)
    return tower.to(args.device)


def finished_tower(args: argparse.Namespace, side: str) -> Tower:
    """The tower of this folder's stage, or, where there is none, of the exported CLIP to go on from."""
    if args.restart and not (args.work / f"clip_{side}" / "state.pt").exists():
        return start_tower(args, side)
    return load_module(args.work / f"clip_{side}", Tower(build_clip(build_tokenizer()), side)).to(args.device)


def train_text(args: argparse.Namespace) -> None:
    """Text tower: captions to the sums of what they say."""
    tokenizer = build_tokenizer()
    tower = start_tower(args, "text")

    def losses(step: int) -> dict[str, Tensor]:
        texts, labels = draw_texts(step, 96, "seen")
        embedded = tower.embed_texts(tokenize(tokenizer, texts).to(args.device))
        far = 1 - (embedded * tower.sum_of_codes(labels)).sum(1)
        return {
            "far": far.mean(),
            "naming": 0.1 * torch.stack([*tower.naming_losses(embedded, labels).values()]).sum(),
        }

    training = PiecewiseTraining(
        "clip text", args.work / "clip_text", tower, losses, num_steps=args.text_steps, learning_rate=1e-3
    )
    for _ in training.ticks(args.minutes):
        texts, labels = draw_texts(10**9, 512, "validation")
        with torch.no_grad():
            embedded = tower.embed_texts(tokenize(tokenizer, texts).to(args.device))
        cosine = (embedded * tower.sum_of_codes(labels)).sum(1)
        print(
            f"  held-out cosine with its sum: mean {cosine.mean():.4f}, least {cosine.min():.4f}", flush=True
        )


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brings images of 128 pixels to 64, as a generator's renders are: mirrored, shifted by up to three
    pixels, half of them not anti-aliased; two thirds are made softer, noisier or a little off in colour."""
    device, count = images.device, len(images)
    uniform = torch.rand(count, 8, 1, 1, 1, generator=generator).to(device).unbind(1)
    images = torch.where(uniform[0] < 0.5, images, images.flip(-1))
    left, top = torch.randint(-6, 7, (2,), generator=generator).tolist()
    images = F.pad(images, (6, 6, 6, 6), mode="replicate")[..., 6 + top : 134 + top, 6 + left : 134 + left]
    images = torch.where(uniform[1] < 0.5, F.avg_pool2d(images, 2), images[..., ::2, ::2])
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    changed = images.lerp(soft, uniform[2])
    gain = 1 + 0.2 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5).to(device)
    noise = torch.randn(images.shape, generator=generator).to(device)
    changed = (changed * gain + 0.06 * uniform[3] * noise).clamp(0, 1)
    return torch.where(uniform[4] < 0.33, images, changed)


def train_image(args: argparse.Namespace) -> None:
    """Image tower: along the directions of each attribute, what is seen."""
    tokenizer = build_tokenizer()
    tower = start_tower(args, "image")
    pool = ViewPool(args.work / "views", "seen", args.num_shards, args.device, first_shard=FIRST_SHARD)
    # Two of five wear something, where one of ten would.
    wears = torch.tensor([meaning.wear is not None for meaning in pool.views.meanings])
    weights = 0.65 / len(wears) + 0.35 * wears / wears.sum()

    def losses(step: int) -> dict[str, Tensor]:
        images, _, meanings, views = pool.draw(args.batch_size, step, supersampled=True, weights=weights)
        embedded = tower.embed_images(disturb(images, torch.Generator().manual_seed(step)))
        # From where a thing without a front is seen cannot be told: -100 is what cross_entropy passes over.
        seen = [view if KINDS[m.kind].has_front else -100 for m, view in zip(meanings, views, strict=True)]
        named = tower.naming_losses(embedded, attribute_labels(meanings) | {"view": torch.tensor(seen)})
        return named | {"view": VIEW_WEIGHT * named["view"]}

    training = PiecewiseTraining(
        "clip image",
        args.work / "clip_image",
        tower,
        losses,
        num_steps=args.steps,
        learning_rate=args.rate,
        weight_decay=0.05,
    )
    held_out = ViewPool(args.work / "views", "validation", 1, args.device)
    for step in training.ticks(args.minutes):
        if step % 500 == 0 or step == args.steps:
            accuracy = single_view_accuracy(TinyClip(joined_clip(args), tokenizer), held_out)
            print(
                "  held-out, one view: " + "  ".join(f"{n} {a:.3f}" for n, a in accuracy.items()), flush=True
            )
            for name, value in accuracy.items():
                training.writer.add_scalar(f"clip/held_out_{name}", value, step)


def joined_clip(args: argparse.Namespace) -> Any:
    """Both towers in one model."""
    clip, text = (finished_tower(args, side).clip for side in ("image", "text"))
    clip.text_model.load_state_dict(text.text_model.state_dict())
    clip.text_projection.load_state_dict(text.text_projection.state_dict())
    return clip


def single_view_accuracy(encoder: TinyClip, pool: ViewPool) -> dict[str, float]:
    """How often one view's own caption beats every caption that is wrong in the named attribute, or in any;
    and how often the right view word wins, on kinds with a front."""
    images, _, meanings, views = pool.draw(NUM_HELD_OUT, 0)
    embedded = encoder.embed_images(images)
    found = hard_retrieval(encoder, embedded, meanings)
    won = {name: value.nanmean().item() for name, value in found.by_attribute.items()}
    rows = [row for row, meaning in enumerate(meanings) if KINDS[meaning.kind].has_front]
    right = []
    for row in rows:
        said = encoder.embed_texts([with_view(grammar.caption(meanings[row]), v) for v in range(4)])
        right.append(int((said @ embedded[row]).argmax()) == views[row])
    return won | {"all": found.overall.mean().item(), "view": sum(right) / len(right)}


def export(args: argparse.Namespace) -> None:
    """Writes the CLIPModel and its tokenizer in the transformers layout, fp16 safetensors."""
    tokenizer = build_tokenizer()
    joined_clip(args).to(torch.float16).save_pretrained(args.out, safe_serialization=True)
    tokenizer.save_pretrained(args.out)
    extra = {side: {"log_scale": finished_tower(args, side).log_scale.item()} for side in ("text", "image")}
    stages = {side: args.work / f"clip_{side}" for side in ("text", "image")}
    write_training(args.out, args.work / "clip_restart.json", stages, extra)
    print(f"wrote {args.out}: {sum(f.stat().st_size for f in args.out.rglob('*.safetensors')) / 1e6:.1f} MB")


@program
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="+", choices=STAGES, help="what to do, in this order")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="of training in this piece, for each stage"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/tinyworld"), help="views and training state"
    )
    parser.add_argument("--out", type=Path, default=Path("scaledreamer/assets/tiny_clip"), help="of `export`")
    parser.add_argument(
        "--restart",
        type=Path,
        help="an exported CLIP to go on from, where there is no training state: weights only, a new rate",
    )
    parser.add_argument("--num-shards", type=int, default=12, help="thousands of views to train on")
    parser.add_argument("--text-steps", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=8000, help="of the image tower")
    parser.add_argument("--rate", type=float, default=1e-3, help="the image tower's peak learning rate")
    parser.add_argument("--batch-size", type=int, default=64, help="of the image tower")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to torch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for stage in args.stages:
        {"text": train_text, "image": train_image, "export": export}[stage](args)


if __name__ == "__main__":
    sys.exit(main())
