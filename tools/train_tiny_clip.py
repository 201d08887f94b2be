"""Trains the tinyworld's CLIP from nothing, on other renders than the prior's. It is only ever used to
evaluate.

    python tools/train_tiny_clip.py train export --minutes 60

Each image is contrasted with the other captions of its batch and with captions that differ from its own in
one attribute, since those are what hard R@1 asks for. The text tower is the prior's text stage, which knows
no image, frozen but for its projection; the image tower is trained from nothing. Linear heads that name the
attributes help it to start; they are not exported. Training stops after `--minutes`; the same command goes on
until `--steps` are done.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from _pieces import PiecewiseTraining, ViewPool, draw_caption
from torch import Tensor, nn
from torch.nn import functional as F
from train_tiny_prior import TextProbe, build_text_encoder, load_module, load_tokenizer

from scaledreamer.prompts.views import VIEW_WORDS, with_view
from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.grammar import Meaning
from scaledreamer.tinyworld.text import ATTRIBUTE_VALUES, MAX_TOKENS, attribute_labels

WIDTH = 128
NUM_DISTRACTORS = 4
FIRST_SHARD = 500
"""The prior's views have lower numbers: no render is shared."""


def build_clip(tokenizer) -> Any:
    """A CLIPModel of 1.7 M parameters: patches of 8 pixels, four layers each, width 128."""
    from transformers import CLIPConfig, CLIPModel

    transformer = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
    }
    text = transformer | {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 3,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = transformer | {"image_size": 64, "patch_size": 8, "num_hidden_layers": 4}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def take_text_tower(clip: Any, work: Path, tokenizer) -> None:
    """Puts the trained text encoder into a new CLIP, frozen."""
    encoder = load_module(work / "text", TextProbe(build_text_encoder(tokenizer))).encoder
    tower = clip.text_model
    tower.load_state_dict({k.removeprefix("text_model."): v for k, v in encoder.state_dict().items()})
    tower.requires_grad_(False)


def tokenize(tokenizer, texts: list[str]) -> Tensor:
    """Token ids padded to the longest text."""
    return tokenizer(
        texts, padding=True, max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


class ClipWithHeads(nn.Module):
    """CLIP with linear heads that name every attribute and the view from the image's embedding."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip: Any = clip
        sizes = {name: len(values) for name, values in ATTRIBUTE_VALUES.items()} | {"view": len(VIEW_WORDS)}
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, size) for name, size in sizes.items()})

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors of images in [0, 1]."""
        return F.normalize(self.clip.get_image_features(pixel_values=images * 2 - 1).pooler_output, dim=-1)

    def embed_texts(self, ids: Tensor) -> Tensor:
        """Unit vectors of token ids."""
        return F.normalize(self.clip.get_text_features(input_ids=ids).pooler_output, dim=-1)


def disturb(images: Tensor, cover: Tensor, generator: torch.Generator) -> Tensor:
    """Makes renders softer, noisier or a little off in colour, as a generator's are; a third stay as they
    are."""
    device, count = images.device, len(images)
    amount = torch.rand(count, 3, 1, 1, generator=generator).to(device)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    changed = images.lerp(soft, amount[:, :1])
    gain = 1 + 0.2 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5).to(device)
    noise = torch.randn(images.shape, generator=generator).to(device)
    changed = (changed * gain + 0.06 * amount[:, 1:2] * noise).clamp(0, 1)
    return torch.where(amount[:, 2:3] < 0.33, images, changed)


def draw_distractors(meaning: Meaning, view: int, has_view: bool, rng: random.Random) -> list[str]:
    """Captions that are wrong in one attribute, and one of the wrong view where the view is said."""
    wrong = grammar.hard_distractors(meaning)
    names = sorted({name for name, _ in wrong})
    chosen = []
    for _ in range(NUM_DISTRACTORS - has_view):
        name = rng.choice(names)
        chosen.append(rng.choice([other for attribute, other in wrong if attribute == name]))
    texts = [grammar.caption(other, rng.randrange(1 << 20)) for other in chosen]
    if not has_view:
        return texts
    other_view = rng.choice([v for v in range(len(VIEW_WORDS)) if v != view])
    same = grammar.caption(meaning, rng.randrange(1 << 20))
    return [with_view(text, view) for text in texts] + [with_view(same, other_view)]


def train(args: argparse.Namespace) -> None:
    """Contrastive training with hard negatives."""
    tokenizer = load_tokenizer(args.work)
    torch.manual_seed(args.seed)
    clip = build_clip(tokenizer)
    take_text_tower(clip, args.work, tokenizer)
    model = ClipWithHeads(clip).to(args.device)
    pool = ViewPool(args.work / "views", "seen", args.num_shards, args.device, first_shard=FIRST_SHARD)

    def losses(step: int) -> dict[str, Tensor]:
        rng, generator = random.Random(step), torch.Generator().manual_seed(step)
        images, cover, meanings, views = pool.draw(args.batch_size, step)
        has_view = [rng.random() < 0.4 for _ in meanings]
        texts, wrong = [], []
        for m, v, h in zip(meanings, views, has_view, strict=True):
            texts.append(draw_caption(m, v, rng, view_word_rate=float(h)))
            wrong += draw_distractors(m, v, h, rng)
        image = model.embed_images(disturb(images, cover, generator))
        text = model.embed_texts(tokenize(tokenizer, texts + wrong).to(args.device))
        right, wrong_text = text[: len(texts)], text[len(texts) :].unflatten(0, (len(texts), NUM_DISTRACTORS))
        scale = model.clip.logit_scale.clamp(max=4.6).exp()
        against_batch = scale * image @ right.T
        against_wrong = scale * torch.einsum("bd,bkd->bk", image, wrong_text)
        target = torch.arange(len(texts), device=image.device)
        to_text = F.cross_entropy(torch.cat([against_batch, against_wrong], 1), target)
        to_image = F.cross_entropy(against_batch.T, target)
        labels = attribute_labels(meanings) | {"view": torch.tensor(views)}
        named = [
            F.cross_entropy(head(image * 8), labels[n].to(args.device)) for n, head in model.heads.items()
        ]
        return {"to_text": to_text, "to_image": 0.3 * to_image, "heads": 0.1 * torch.stack(named).sum()}

    training = PiecewiseTraining(
        "clip", args.work / "clip", model, losses, num_steps=args.steps, learning_rate=1e-3, weight_decay=0.05
    )
    held_out = ViewPool(args.work / "views", "validation", 1, args.device)
    averaged = ClipWithHeads(build_clip(tokenizer)).to(args.device).eval()
    for step in training.ticks(args.minutes):
        if step % 500 == 0 or step == args.steps:
            training.load_ema_into(averaged)
            accuracy = single_view_accuracy(averaged, tokenizer, held_out, args.device)
            print(
                "  held-out, one view: " + "  ".join(f"{n} {a:.3f}" for n, a in accuracy.items()), flush=True
            )
            for name, value in accuracy.items():
                training.writer.add_scalar(f"clip/held_out_{name}", value, step)


@torch.no_grad()
def single_view_accuracy(model: ClipWithHeads, tokenizer, pool: ViewPool, device: str) -> dict[str, float]:
    """How often one view's own caption beats every caption that is wrong in the named attribute."""
    images, _, meanings, _ = pool.draw(128, 0)
    embedded = model.embed_images(images)
    won: dict[str, list[bool]] = {}
    for image, meaning in zip(embedded, meanings, strict=True):
        wrong = grammar.hard_distractors(meaning)
        texts = [grammar.caption(meaning), *(grammar.caption(other) for _, other in wrong)]
        scores = model.embed_texts(tokenize(tokenizer, texts).to(device)) @ image
        for name in {name for name, _ in wrong}:
            rivals = [
                score
                for score, (attribute, _) in zip(scores[1:].tolist(), wrong, strict=True)
                if attribute == name
            ]
            won.setdefault(name, []).append(scores[0].item() > max(rivals))
        won.setdefault("all", []).append(bool(scores.argmax() == 0))
    return {name: sum(values) / len(values) for name, values in won.items()}


def export(args: argparse.Namespace) -> None:
    """Writes the CLIPModel and its tokenizer in the transformers layout, fp16 safetensors."""
    tokenizer = load_tokenizer(args.work)
    model = load_module(args.work / "clip", ClipWithHeads(build_clip(tokenizer)))
    model.clip.to(torch.float16).save_pretrained(args.out, safe_serialization=True)
    tokenizer.save_pretrained(args.out)
    last = json.loads((args.work / "clip" / "metrics.jsonl").read_text().splitlines()[-1])
    (args.out / "training.json").write_text(json.dumps(last, indent=1) + "\n")
    print(f"wrote {args.out}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="+", choices=("train", "export"), help="what to do, in this order")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training in this piece")
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/tinyworld"), help="views and training state"
    )
    parser.add_argument("--out", type=Path, default=Path("scaledreamer/assets/tiny_clip"), help="of `export`")
    parser.add_argument("--num-shards", type=int, default=10, help="thousands of views to train on")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to torch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for stage in args.stages:
        {"train": train, "export": export}[stage](args)


if __name__ == "__main__":
    main()
