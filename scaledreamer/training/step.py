"""One training step, from prompts to updated parameters. Start reading at `Trainer.step`.

Letters: `x` is an image at a prior's size, `g_x` the gradient there. Axes: `batch` prompts of this rank,
`view` cameras of a prompt, `image` both flattened, prompts first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scaledreamer.contracts import Estimate, Generator, GeneratorText
from scaledreamer.distillation import ClipStats
from scaledreamer.launch.engine import Engine, Update
from scaledreamer.training.batch import Batch, BatchSampler
from scaledreamer.training.judge import Judge, upsample
from scaledreamer.training.metrics import Averages, PartTimer
from scaledreamer.training.optimizers import AveragedWeights, LearningRates, set_learning_rates
from scaledreamer.training.prefetch import Prefetch
from scaledreamer.training.regularizers import Regularizers


@dataclass
class Trainer:
    """Everything that a training step needs, apart from its number.

    Attributes:
        engine: forward pass, gradients and optimizer.
        averaged: moving average of the trained parameters, which is exported.
        batches: draws the batches.
        judges: the priors of the run with their methods.
        on_draw: called with each batch before it is computed.
        averages: metrics since they were last collected.
        problems: what was not finite in the last skipped step.
    """

    engine: Engine
    averaged: AveragedWeights[Generator]
    batches: BatchSampler
    judges: Sequence[Judge]
    regularizers: Regularizers
    learning_rates: LearningRates
    on_draw: Callable[[int, Batch], None] = lambda step, batch: None
    averages: Averages = field(default_factory=Averages)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        device = self.engine.process.device
        self.timer = PartTimer(device)
        self.prefetch = Prefetch(self.batches, self.batches.accumulation_steps, device)
        self.needs = frozenset[str]().union(*(judge.prior.needs for judge in self.judges))

    def step(self, step: int, *, wants_stop: bool = False) -> Update:
        """Optimizer step number `step`, a function of it and of the state of parameters and optimizer.

        Args:
            step: from 0.
            wants_stop: whether this rank wants to stop; shared with the other ranks in the step's all-reduce.
        """
        set_learning_rates(self.engine.optimizer, self.learning_rates.at(step))
        factors = self.regularizers.factors_at(step)
        is_finite = torch.ones((), dtype=torch.bool, device=self.engine.process.device)
        seen: list[tuple[Batch, ClipStats, dict[str, Tensor]]] = []
        estimates: list[list[Estimate]] = [[] for _ in self.judges]
        for micro_step in range(self.batches.accumulation_steps):
            # ---- draw the batch: a pure function of (seed, step, sample index)
            with self.timer.part("draw"):
                batch = self.prefetch(step, micro_step)
                self.on_draw(step, batch)

            # ---- one forward pass for all prompts, and their images
            with self.timer.part("render"):
                rendering, terms = self.engine(batch, frozenset(factors), self.needs)
                images, frozen = rendering.rgb.flatten(0, 1), rendering.detach()

            # ---- each judge's gradient at its input image, clipped per pixel of each image (PGC)
            loss = torch.zeros((), device=images.device)
            for number, judge in enumerate(self.judges):
                with self.timer.part("prior"):
                    x = upsample(images, judge.prior.image_size)
                    observation, draws = batch.observation(number, frozen), batch.draws_for(number, judge)
                    g_x, stats, estimate = judge.image_gradient(x, observation, draws, step)
                loss = loss + judge.weight * (g_x * x).sum() / len(images)
                is_finite = is_finite & stats.is_finite
                seen.append((batch, stats, {name: value.detach() for name, value in terms.items()}))
                estimates[number].append(estimate)
                self._record(number, stats, estimate)

            # ---- regularizers: the one place where their terms are reduced and summed
            for name, factor in factors.items():
                loss = loss + factor * terms[name].mean()
                self.averages.add(f"loss/{name}", terms[name])
            is_finite = is_finite & loss.detach().isfinite()

            # ---- back through renderer and generator; the VAE's graph is gone by now
            with self.timer.part("backward"):
                is_last = micro_step == self.batches.accumulation_steps - 1
                self.engine.backward(loss, is_last=is_last)
            self.averages.add("render/opacity", rendering.opacity)
            if self.batches.stream.order.num_shards > 1:
                self.averages.add("prompts/damaged", torch.tensor(batch.num_replaced / len(batch.prompts)))

        # ---- the same decision on all ranks: update, or skip what is not finite
        with self.timer.part("update"):
            update = self.engine.step(is_finite, wants_stop=wants_stop)
            if update.is_applied:
                self.averaged.update(self.engine.trained, step)
                for number, judge in enumerate(self.judges):
                    for name, value in judge.method.update(estimates[number], step).items():
                        self.averages.add(f"prior{number}/{name}", value)
        if not update.is_applied:
            reasons = [judge.prior.why_not_finite() for judge in self.judges]
            self.problems = [reason for reason in reasons if reason is not None]
            self.problems += [problem for entry in seen for problem in nonfinite(*entry)]
        return update

    def encode(self, prompts: Sequence[str]) -> GeneratorText:
        """The conditioner's output; in the prefetching thread, where alone the encoders are ever run."""
        return self.prefetch.run(self.batches.conditioner, prompts)

    def _record(self, number: int, stats: ClipStats, estimate: Estimate) -> None:
        """Adds one judge's numbers to the averages."""
        values = {
            "latent_gradient": estimate.gradient.square().sum((1, 2, 3)).sqrt(),
            "pixel_gradient": stats.norm_mean,
            "pixel_gradient_max": stats.norm_max,
            "pixel_gradient_clipped": stats.clipped_norm_mean,
            "clipped_fraction": stats.clipped_fraction,
        }
        for name, value in {**values, **estimate.statistics}.items():
            self.averages.add(f"prior{number}/{name}", value)


def nonfinite(batch: Batch, stats: ClipStats, terms: dict[str, Tensor]) -> list[str]:
    """What was not finite in a skipped step: loss terms and pixel gradients, each with its prompts."""
    problems = []
    bad = {name: ~term.isfinite().flatten(1).all(1) for name, term in terms.items()}
    bad["pixel gradient"] = (stats.num_nonfinite > 0).view(len(batch.prompts), -1).any(1)
    for name, is_bad in bad.items():
        for i in is_bad.nonzero().flatten().tolist():
            problems.append(f"{name} of sample {batch.indices[i]} ({batch.prompts[i]!r})")
    return problems or ["gradients of the parameters"]
