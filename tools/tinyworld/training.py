"""What the training tools of the tiny models share: views to draw from, and training in resumable pieces."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scaledreamer.prompts.view_words import view_index, with_view
from scaledreamer.tinyworld import dataset, grammar
from scaledreamer.tinyworld.grammar import Meaning

VIEWS_PER_SHARD = 1000


class ViewPool:
    """Traced views of one split, kept in memory: from shards on disk, or traced on the spot on a GPU.

    Args:
        folder: where shards lie; missing ones are traced and written there (CPU only).
        split: of the grammar.
        num_shards: of a thousand views each.
        first_shard: number of the first; models that must not share renders use different numbers.
    """

    def __init__(
        self, folder: Path, split: str, num_shards: int, device: str, *, first_shard: int = 0
    ) -> None:
        self.split, self.device = split, device
        if device == "cpu":
            folder.mkdir(parents=True, exist_ok=True)
            shards = range(first_shard, first_shard + num_shards)
            paths = [folder / f"{split}-{shard:03d}.safetensors" for shard in shards]
            for path in paths:
                if not path.exists():
                    started = time.time()
                    seed = int(path.stem.rsplit("-", 1)[1])
                    dataset.save_views(dataset.make_views(seed, VIEWS_PER_SHARD, split), path)
                    print(f"traced {path.name} in {time.time() - started:.0f} s", flush=True)
            self.views = dataset.load_views(paths)
        else:
            self.views = dataset.make_views(first_shard, num_shards * VIEWS_PER_SHARD, split, device=device)
        self.view = view_index(self.views.cameras.elevation[:, 0], self.views.cameras.azimuth[:, 0]).tolist()

    def draw(
        self,
        count: int,
        seed: int,
        *,
        recolor: bool = True,
        supersampled: bool = False,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[Meaning], list[int]]:
        """Images (count, 3, 64, 64) and coverage in [0, 1], meanings, and view words' indices; a function of
        `seed`.

        Args:
            supersampled: give the images of 128 pixels that the others are averages of.
            weights: how often each view of the pool is drawn, not normalised; None is equally often.
        """
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        if weights is None:
            index = torch.randint(len(self.views), (count,), generator=generator)
        else:
            index = weights.multinomial(count, replacement=True, generator=generator)
        meanings = [self.views.meanings[i] for i in index.tolist()]
        if recolor:
            meanings = [dataset.recolor(meaning, rng, self.split) for meaning in meanings]
        backgrounds = dataset.draw_backgrounds(generator, count).to(self.device)
        rows = index.to(self.views.surface.device)
        images, cover = dataset.paint_views(
            self.views.surface[rows],
            self.views.light[rows],
            meanings,
            backgrounds,
            self.views.surface.shape[1] // (1 if supersampled else 2),
        )
        return images, cover, meanings, [self.view[i] for i in index.tolist()]


def draw_caption(meaning: Meaning, view: int, rng: random.Random, *, view_word_rate: float = 0.9) -> str:
    """One of the meaning's captions, mostly with its view word."""
    text = grammar.caption(meaning, rng.randrange(1 << 20))
    return with_view(text, view) if rng.random() < view_word_rate else text


def cosine_rate(step: int, num_steps: int, warmup: int = 100) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine down to zero."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min((step - warmup) / max(num_steps - warmup, 1), 1.0)
    return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress)).item())


class PiecewiseTraining:
    """Trains one module for a stated number of steps, in pieces of stated minutes; a piece goes on from the
    last.

    Args:
        folder: holds `state.pt` (module, moving average, optimizer, step), `metrics.jsonl` and TensorBoard
            events.
        step_fn: `step -> named losses`; must depend on the step alone, so that pieces join without a seam.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        module: nn.Module,
        step_fn: Callable[[int], dict[str, Tensor]],
        *,
        num_steps: int,
        learning_rate: float,
        weight_decay: float = 0.01,
        ema_decay: float = 0.999,
        max_grad_norm: float = 1.0,
    ) -> None:
        self.name, self.folder, self.module, self.step_fn = name, folder, module, step_fn
        self.num_steps, self.learning_rate = num_steps, learning_rate
        self.ema_decay, self.max_grad_norm = ema_decay, max_grad_norm
        folder.mkdir(parents=True, exist_ok=True)
        trainable = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trainable, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
        )
        self.ema = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.step, self.seconds = 0, 0.0
        state_path = folder / "state.pt"
        if state_path.exists():
            state = torch.load(state_path, map_location="cpu", weights_only=True)
            module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema, self.step, self.seconds = state["ema"], state["step"], state["seconds"]
            device = next(module.parameters()).device
            self.ema = {k: v.to(device) for k, v in self.ema.items()}
            print(f"{name}: goes on from step {self.step}", flush=True)

    def save(self) -> None:
        """Writes the whole state under a temporary name, then renames it."""
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.folder / "state.tmp"
        torch.save(state, temporary)
        temporary.replace(self.folder / "state.pt")

    def load_ema_into(self, module: nn.Module) -> None:
        """Copies the moving average of the weights into another module of the same shape."""
        module.load_state_dict(self.ema)

    def ticks(self, minutes: float, every: int = 100) -> Iterator[int]:
        """Trains until the steps or the minutes are used up; yields the step at every tick, and at the
        end."""
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(self.folder / "tensorboard"))
        deadline = time.time() + 60 * minutes
        tick_started, sums, counted = time.time(), {}, 0
        while self.step < self.num_steps and time.time() < deadline:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate * cosine_rate(self.step, self.num_steps)
            losses = self.step_fn(self.step)
            total = torch.stack(list(losses.values())).sum()
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()
            norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)
            if torch.isfinite(norm):
                self.optimizer.step()
            self.step += 1
            decay = min(self.ema_decay, self.step / (self.step + 10))
            with torch.no_grad():
                for name, value in self.module.state_dict().items():
                    if value.is_floating_point():
                        self.ema[name].lerp_(value, 1 - decay)
                    else:
                        self.ema[name].copy_(value)
            for name, value in (losses | {"grad_norm": norm}).items():
                sums[name] = sums.get(name, 0.0) + value.detach()
            counted += 1
            if self.step % every == 0 or self.step == self.num_steps:
                took = time.time() - tick_started
                self.seconds += took
                means = {name: float(value) / counted for name, value in sums.items()}
                left = took / counted * (self.num_steps - self.step) / 60
                line = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
                print(f"{self.name} {self.step}/{self.num_steps}  {line}  ETA {left:.0f} min", flush=True)
                with (self.folder / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps({"step": self.step, "hours": self.seconds / 3600} | means) + "\n")
                for name, value in means.items():
                    writer.add_scalar(f"{self.name}/{name}", value, self.step)
                self.save()
                self.writer = writer
                yield self.step
                tick_started, sums, counted = time.time(), {}, 0
        self.save()
        writer.close()


def start_record(kept: Path, restart: Path) -> dict[str, dict[str, float]]:
    """The `training.json` of the export that training started from, copied to `kept` at the first start: the
    export itself may be replaced later, and what it counted must not be counted twice."""
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text((restart / "training.json").read_text())
    return json.loads(kept.read_text())


def write_training(
    out: Path, kept: Path, stages: dict[str, Path], extra: dict[str, dict[str, float]] | None = None
) -> None:
    """Writes `training.json`: each stage's last metrics, plus steps and hours before a restart (`kept`)."""
    steps = json.loads(kept.read_text()) if kept.exists() else {}
    for stage, folder in stages.items():
        path = folder / "metrics.jsonl"
        if path.exists():
            last, before = json.loads(path.read_text().splitlines()[-1]), steps.get(stage, {})
            steps[stage] = last | {name: before.get(name, 0) + last[name] for name in ("step", "hours")}
        steps[stage] = steps.get(stage, {}) | (extra or {}).get(stage, {})
    (out / "training.json").write_text(json.dumps(steps, indent=1) + "\n")


def load_module(folder: Path, module: nn.Module) -> Any:
    """The module with the moving average of a stage's weights, frozen."""
    path = folder / "state.pt"
    if not path.exists():
        raise SystemExit(f"error: {path} is missing: train the stage {folder.name!r} first.")
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["ema"])
    return module.eval().requires_grad_(False)
