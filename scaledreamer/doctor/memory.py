"""Estimates the memory of a run, part by part, for one rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scaledreamer.config import Config, load_config
from scaledreamer.doctor import networks
from scaledreamer.doctor.child import run_code
from scaledreamer.doctor.files import Model, num_moments
from scaledreamer.doctor.findings import Section, size
from scaledreamer.prompts.view_words import VIEW_WORDS

CUDA_BYTES = 900 * 2**20
"""GPU memory for CUDA and its libraries, after their first use."""
ALLOCATOR = {"cpu": 1.4, "cuda": 1.15}
"""Memory for activations relative to the tensors in use: workspaces of libraries, and memory that an
allocator keeps. Measured on a CPU: 1.36 to 1.46. Not measured on GPUs."""
ZERO_COPIES = 2.35
"""Copies of the parameters that ZeRO keeps besides gradients and moments, sharded over ranks; measured on
one."""
UPDATE_COPIES = {"adan": 3}
"""Temporary copies of the parameters during an optimizer step; the others work in place. Measured."""
REDUCE_BYTES = 4 * 500_000_000
"""Without ZeRO, DeepSpeed temporarily copies all gradients into one flat tensor of at most this size."""
_BASE = """
import os
from scaledreamer.doctor.child import peak_bytes
from scaledreamer.doctor.memory import smallest_run
import scaledreamer.training.run
from scaledreamer.prompts.assembly import make_prompts
from scaledreamer.assemble import make_trainer
from scaledreamer.config import parse_config
from scaledreamer.prompts.source import PromptList
from scaledreamer.launch.process import start_process
trainer = make_trainer(smallest_run(), start_process("cpu"))
trainer.step(0)
prior = trainer.judges[0].prior
weights = [*(p for network in prior.networks().values() for p in network.parameters())]
base = peak_bytes() - sum(p.nbytes for p in weights)
before = peak_bytes()
config = parse_config(argument).prompts
if config.shards is None:
    prompts = PromptList(make_prompts(config))
answer({"base": base, "prompts": peak_bytes() - before})
"""


def smallest_run() -> Config:
    """A run whose own memory is negligible compared with that of its libraries."""
    settings = [
        "prompts.name=core_15",
        "training.batch_size=1",
        "training.text_cache=0",
        "renderer.image_size=4",
        "generator.name=hyper_ingp",
    ]
    sizes = {"num_levels": 1, "log2_table_size": 4, "hyper_width": 8, "mlp_width": 8}
    settings += [f"generator.hyper_ingp.{name}={value}" for name, value in sizes.items()]
    return load_config(None, [*settings, "regularizers.eikonal.num_points=8", "training.device=cpu"])


@dataclass(frozen=True)
class Estimate:
    """The estimate for one rank.

    Attributes:
        main: bytes of main memory by part.
        device: bytes of GPU memory by part; empty for training on the CPU.
        flops: operations of a step.
        parameters: numbers of parameters by part.
        images: images per backward pass.
        notes: what was guessed.
    """

    main: dict[str, int]
    device: dict[str, int]
    flops: int
    parameters: dict[str, int]
    images: int
    notes: tuple[str, ...] = ()


def rank_prompts(config: Config, ranks: int) -> int:
    """Prompts per backward pass on the rank with the most."""
    parts = ranks * config.training.accumulation_steps
    return -(-config.training.batch_size // parts)


def estimate(
    config: Config, models: list[Model], *, ranks: int, is_cuda: bool, num_distinct: int
) -> Estimate:
    """Estimates the peak memory of a step.

    Args:
        models: the conditioner, then each prior.
        num_distinct: distinct prompts of the corpus, which determine whether text encodings are cached.

    Raises: ValueError for impossible settings of a prior; ChildError if the package cannot be imported.
    """
    batch, steps = rank_prompts(config, ranks), config.training.accumulation_steps
    images = batch * config.cameras.num_views
    width = networks.condition_dim(models[0])
    parameters = networks.num_parameters(config.generator, width)
    trained = 4 * sum(parameters.values())
    parts: dict[str, int] = {
        "generator: parameters": trained,
        "generator: gradients": trained,
        "generator: averaged weights": trained,
        f"optimizer ({config.optimizer.name}): moments": num_moments(config) * trained,
        "conditioner": networks.conditioner_bytes(models[0]),
    }
    copies = trained
    if config.training.zero_stage:
        parts[f"optimizer ({config.optimizer.name}): moments"] //= ranks
        parts["ZeRO: copies of parameters and gradients"] = round(ZERO_COPIES * trained / ranks)
        copies //= ranks
    render = networks.RenderCost(config, batch)
    flops, judged, notes = steps * render.flops, 0, []
    num_texts = num_distinct * len(VIEW_WORDS) + 1
    cached = num_texts if num_texts <= config.training.text_cache else 0
    text_bytes = cached * 77 * 4 * width
    for settings, model in zip(config.priors, models[1:], strict=True):
        prior = networks.meta_prior(settings, model)
        cost = networks.cost_of(prior, settings, images)
        for part, num_bytes in cost.parameter_bytes.items():
            is_dropped = settings.networks.drop_text_encoder and part.startswith("text")
            parts[f"{model.key}: {part}"] = 0 if is_dropped else num_bytes
        flops += steps * cost.step.flops
        judged = max(judged, cost.step.peak_bytes)
        text_bytes += cached * 4 * prior.text_shape[0] * prior.text_shape[1]
        if model.here is None:
            family = networks.guess_family(model.name, settings.name == "sdxl")
            notes.append(f"{model.key}: its files are not here, the sizes are those of {family} in full size")
    parts["text encodings kept"] = text_bytes
    # The prior judges while the rendering waits for its backward pass, at which the prior's part is gone, and
    # both are when parameters are updated. In the first part of a step there are no gradients yet.
    is_late = steps > 1
    factor = ALLOCATOR["cuda" if is_cuda else "cpu"]
    moments = {
        "activations, rendering": factor * render.peak_bytes,
        "activations, rendering and prior": factor * (render.kept_bytes + judged) - (not is_late) * trained,
        "copies while parameters are updated": max(
            UPDATE_COPIES.get(config.optimizer.name, 0) * copies,
            0 if config.training.zero_stage else min(trained, REDUCE_BYTES),
        ),
    }
    fullest = max(moments, key=lambda name: moments[name])
    parts[fullest] = round(moments[fullest])
    base: dict[str, Any] = run_code(_BASE, config.model_dump())
    main = {"Python and libraries": base["base"], "prompts": base["prompts"]}
    device = {"CUDA and its libraries": CUDA_BYTES, **parts} if is_cuda else {}
    return Estimate(main if is_cuda else main | parts, device, flops, parameters, images, tuple(notes))


def report(
    found: Estimate, config: Config, *, ranks: int, free_main: int, devices: list[dict[str, Any]]
) -> Section:
    """The estimate compared with the available memory."""
    section = Section("Memory (estimated, of each rank, as training begins)")
    counted = ", ".join(f"{name} {number:,}" for name, number in found.parameters.items())
    section.add("ok", f"generator: {sum(found.parameters.values()):,} parameters ({counted})")
    for note in found.notes:
        section.add("warning", note, "download the weights for exact sizes")
    todo = (
        f"raise training.accumulation_steps or lower training.batch_size ({found.images} images are rendered "
        "at once), set memory_gib or a half dtype of the prior, or lower renderer.image_size "
        f"({config.renderer.largest_image_size})"
    )
    free_device = min((device["free"] for device in devices), default=0)
    for what, parts, free, count in (
        ("main memory", found.main, free_main, ranks),
        ("GPU", found.device, free_device, 1),
    ):
        if not parts:
            continue
        needed = count * sum(parts.values())
        listed = "; ".join(f"{name} {size(value)}" for name, value in parts.items() if value)
        times = f" for {count} ranks" if count > 1 else ""
        text = f"{what}: {size(needed)} needed{times}, {size(free)} free: {listed}"
        if needed > free:
            section.add("error", text, todo)
        elif needed > 0.85 * free:
            section.add("warning", f"{text}; this is close", todo)
        else:
            section.add("ok", text)
    section.numbers |= {
        "main_bytes": found.main,
        "device_bytes": found.device,
        "total_main_bytes": sum(found.main.values()),
        "parameters": found.parameters,
    }
    return section
