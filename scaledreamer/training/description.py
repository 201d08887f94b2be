"""A run in words: the output of a dry run, and words that the text encoder does not know."""

from __future__ import annotations

import torch

from scaledreamer.config import Config, dump_config
from scaledreamer.prompts.conditioner import TextConditioner
from scaledreamer.prompts.encodings import EncodingCache
from scaledreamer.training.step import Trainer


def text_conditioner(trainer: Trainer) -> TextConditioner:
    """The generator's text encoder, which is exported with it."""
    conditioner = trainer.batches.conditioner
    assert isinstance(conditioner, EncodingCache) and isinstance(conditioner.encode, TextConditioner)
    return conditioner.encode


def unknown_words(trainer: Trainer) -> list[str]:
    """At most one line about words that the conditioner will misread, from a sample of the corpus."""
    conditioner = text_conditioner(trainer)
    prompts = trainer.batches.stream.source.examples(100)
    found = [words for words in map(conditioner.unknown_words, prompts) if words]
    if not found:
        return []
    distinct = list(dict.fromkeys(word for words in found for word in words))
    listed = ", ".join(distinct[:8]) + (", ..." if len(distinct) > 8 else "")
    of = f"{len(found)} of {len(prompts)} prompts" if len(prompts) > 1 else "the prompt"
    return [f"note: words of {of} that the conditioner does not know and will misread: {listed}"]


def describe(config: Config, trainer: Trainer, first_step: int) -> str:
    """The output of a dry run: configuration, parameters, and the first batch."""
    batch = trainer.prefetch.draw(first_step)
    cameras = batch.cameras
    lines = [dump_config(config), "parameters:"]
    for name, module in trainer.engine.trained.named_children():
        lines.append(f"  {name}: {sum(p.numel() for p in module.parameters()):,}")
    lines.append(f"  total: {sum(p.numel() for p in trainer.engine.trained.parameters()):,}")
    lines += [f"prompts: {trainer.batches.stream.source.num_prompts:,}", *unknown_words(trainer)]
    lines.append(f"first batch (step {first_step}):")
    times = [
        judge.method.times(batch.draws_for(number, judge), first_step)
        for number, judge in enumerate(trainer.judges)
    ]
    for image, prompt in enumerate(batch.view_prompts):
        i, v = divmod(image, batch.num_views)
        angles = ", ".join(
            f"{name} {torch.rad2deg(getattr(cameras, name)[i, v]):.1f}"
            for name in ("elevation", "azimuth", "fov")
        )
        at = "; ".join(
            ", ".join(f"{name} {value[image]:.3f}" for name, value in drawn.items()) for drawn in times
        )
        lines.append(f"  {prompt!r}: {angles}, distance {cameras.distance[i, v]:.2f}; {at}")
    return "\n".join(lines)
