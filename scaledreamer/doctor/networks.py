"""The configured networks without their weights, on torch's meta device, and the cost of their calls."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scaledreamer import config as cfg
from scaledreamer import generators, rendering
from scaledreamer.accounting import Cost, count
from scaledreamer.assemble import make_camera_sampler
from scaledreamer.contracts import GeneratorText
from scaledreamer.doctor.files import Model
from scaledreamer.priors.cost import PriorCost, prior_cost
from scaledreamer.priors.full_size import Name, assemble, full_size
from scaledreamer.priors.latent_diffusion import LatentDiffusionPrior
from scaledreamer.training.regularizers import make_regularizers

GUESSED_WIDTH = {"sd15": 768, "sd21": 1024, "sdxl": 768}
"""Assumed width of the (first) text encoder."""


def guess_family(name: str, is_sdxl: bool = False) -> Name:
    """Guesses the published architecture from a name."""
    if is_sdxl or re.search(r"sd-?xl|xl-base", name.lower()):
        return "sdxl"
    return "sd21" if re.search(r"diffusion-?v?2|sd-?v?2|v2-|2-1|2\.1", name.lower()) else "sd15"


def condition_dim(model: Model) -> int:
    """Width of the conditioner's text embedding."""
    from transformers import CLIPTextConfig

    if model.here is None or model.here.folder is None:
        return GUESSED_WIDTH[guess_family(model.name)]
    return CLIPTextConfig.from_pretrained(model.here.folder, subfolder="text_encoder").hidden_size


def conditioner_bytes(model: Model) -> int:
    """Bytes of the conditioner's weights in float32."""
    if model.here is None or model.here.folder is None:
        network: nn.Module = full_size(guess_family(model.name))["text_encoder"]
    else:
        network = _text_encoder(model.here.folder, "")
    return 4 * sum(parameter.numel() for parameter in network.parameters())


def meta_prior(config: cfg.PriorSettings, model: Model) -> LatentDiffusionPrior:
    """A prior on the meta device with the configured execution; of the guessed full-size family if its files
    are not available.

    Raises: ValueError if it cannot be executed that way.
    """
    settings, is_sdxl = config.networks, config.name == "sdxl"
    dtype = getattr(torch, settings.dtype)
    vae_dtype = torch.float32 if is_sdxl else dtype
    if model.here is None or model.here.folder is None:
        networks = full_size(guess_family(model.name, is_sdxl), dtype)
    else:
        networks, upcast = _networks(model.here.folder, is_sdxl)
        vae_dtype = vae_dtype if upcast else dtype
    for part, network in networks.items():
        nn.Module.to(network, vae_dtype if part == "vae" else dtype)
    prior = assemble("sdxl" if is_sdxl else "sd15", networks)
    prior.run_as(
        vae_slicing=settings.vae_slicing,
        vae_tiling=settings.vae_tiling,
        memory_gib=settings.memory_gib,
        key=f"{model.key}.{config.name}",
    )
    return prior


def cost_of(prior: LatentDiffusionPrior, config: cfg.PriorSettings, images: int) -> PriorCost:
    """A prior's part of one backward pass of a step."""
    branches = 3 if config.method == "asd" else 2
    if config.perp_neg > 0 and config.method != "csd":
        branches += 2
    return prior_cost(prior, images, branches=branches)


def _networks(folder: Path, is_sdxl: bool) -> tuple[dict[str, nn.Module], bool]:
    """Networks from the configurations in a pipeline's folder, and whether the autoencoder needs float32."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    vae_config: Any = AutoencoderKL.load_config(folder, subfolder="vae")
    unet_config: Any = UNet2DConditionModel.load_config(folder, subfolder="unet")
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(unet_config)
        vae: Any = AutoencoderKL.from_config(vae_config)
    networks: dict[str, nn.Module] = {
        "unet": unet,
        "vae": vae,
        "text_encoder": _text_encoder(folder, ""),
    }
    if is_sdxl:
        networks["text_encoder_2"] = _text_encoder(folder, "_2")
    return networks, bool(vae_config.get("force_upcast", True))


def _text_encoder(folder: Path, number: str) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    settings = CLIPTextConfig.from_pretrained(folder, subfolder=f"text_encoder{number}")
    with torch.device("meta"):
        return (CLIPTextModelWithProjection if number else CLIPTextModel)(settings)


# --- the generator -----------------------------------------------------------------------------------------


def num_parameters(config: cfg.GeneratorSettings, width: int) -> dict[str, int]:
    """Numbers of parameters of the generator's parts."""
    settings = generators.constructor_settings(config, condition_dim=width)
    with torch.device("meta"):
        generator = generators.make(config.name, settings)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in generator.named_children()}
    return parts | {name: p.numel() for name, p in generator.named_parameters(recurse=False)}


class RenderCost:
    """Cost of generator, renderer and regularizers, from a few small passes on the CPU.

    Parts that only affect the number of parameters (hash tables and hyper-network) are made small, and so are
    the parts that make a volume before points are queried, which are counted separately. Costs grow linearly
    with the number of prompts, and those of a prompt with its rays.

    Attributes:
        flops, kept_bytes, peak_bytes: for `batch` prompts, forward and backward, without parameter gradients;
            `kept_bytes` is what the forward pass keeps for the backward pass.
    """

    def __init__(self, config: cfg.Config, batch: int) -> None:
        size = config.renderer.largest_image_size
        views = config.cameras.num_views
        # Enough rays for a line through two sizes, and few enough samples to take only seconds.
        num_samples = rendering.configured(config.renderer).num_samples
        base = min(size, 32 if num_samples <= 64 else 16)
        two, four, smaller = (
            _passes(config, *arguments) for arguments in ((2, base), (4, base), (2, base // 2))
        )
        rays = views * size**2
        base_rays, smaller_rays = base**2, (base // 2) ** 2
        totals = []
        for first, second, third in zip(two, four, smaller, strict=True):
            prompt = max(second - first, 0) / 2
            ray = max(first - third, 0) / 2 / (base_rays - smaller_rays)
            totals.append((first - 2 * prompt) + batch * (prompt + ray * (rays - base_rays)))
        flops, kept, peak = (round(max(total, 0)) for total in totals)
        if config.renderer.chosen.memory_gib is not None:
            most = round(config.renderer.chosen.memory_gib * 2**30)
            kept, peak = min(kept, most), min(peak, most)
        made = _made_before(config, batch)
        self.flops, self.kept_bytes = flops + made.flops, kept + made.kept_bytes
        self.peak_bytes = max(peak + made.kept_bytes, made.peak_bytes)


def _small(config: cfg.GeneratorSettings) -> dict[str, Any]:
    """Settings of a generator with the same cost per point, and almost none before points are queried."""
    settings = generators.constructor_settings(config, condition_dim=8)
    return generators.class_of(config.name).small_settings(settings)


def _made_before(config: cfg.Config, batch: int) -> Cost:
    """Cost of what a generator computes before points are queried, forward and backward, on the meta device,
    without parameter gradients; zero if that is a small network.
    """
    if not generators.class_of(config.generator.name).makes_features_first:
        return Cost(0, 0)
    settings = generators.constructor_settings(config.generator, condition_dim=8)
    with torch.device("meta"):
        generator: Any = generators.make(config.generator.name, settings)
        z = torch.empty(batch, generator.noise_dim) if generator.has_noise else None
        ones = torch.empty(batch, 1, dtype=torch.bool)
        text = GeneratorText(torch.empty(batch, 8), torch.empty(batch, 1, 8), ones)

    def forward() -> list[Tensor]:
        features = generator(text, z).features
        return [value for value in vars(features).values() if isinstance(value, Tensor)]

    kept = count(forward)

    def whole() -> None:
        made = forward()
        torch.autograd.backward(made, [torch.empty_like(value) for value in made])

    both = count(whole)
    gradients = sum(p.grad.nbytes for p in generator.parameters() if p.grad is not None)
    return Cost(both.flops, max(both.peak_bytes - gradients, kept.peak_bytes), kept.kept_bytes)


def _passes(
    config: cfg.Config, batch: int, image_size: int, settings: dict[str, Any] | None = None
) -> tuple[int, int, int]:
    """Flops, kept and peak bytes of one forward and backward pass of one view.

    Args:
        settings: settings of the generator, for text features of length 8; None is the small one.
    """
    from scaledreamer.prompts.source import PromptList
    from scaledreamer.prompts.stream import PromptStream
    from scaledreamer.training.batch import Batch
    from scaledreamer.training.rendered import RenderedGenerator

    torch_state = torch.get_rng_state()
    generator = generators.make(config.generator.name, settings or _small(config.generator))
    torch.set_rng_state(torch_state)
    cameras = config.cameras.model_copy(update={"num_views": 1})
    sampler = make_camera_sampler(cameras, config.renderer, config.training.max_steps)
    regularizers = make_regularizers(config.regularizers, config.training.max_steps)
    last = config.training.max_steps - 1
    names = frozenset(name for step in {0, last // 2, last} for name in regularizers.factors_at(step))
    undivided = config.renderer.chosen.model_dump() | {"memory_gib": None}
    renderer = rendering.make(config.renderer.name, undivided)
    module = RenderedGenerator(generator, renderer, regularizers, config.renderer.random_background)
    stream = PromptStream(PromptList(["a"]), seed=0, batch_size=batch)
    drawn = stream.samples(0, range(batch), torch.device("cpu"))
    text = GeneratorText(
        torch.randn(batch, 8), torch.zeros(batch, 1, 8), torch.ones(batch, 1, dtype=torch.bool)
    )
    views = sampler.sample(drawn.random.uniform("cameras", 1, 4))
    sample = Batch(range(batch), drawn.prompts, drawn.random, text, views, (), image_size)

    def forward() -> Any:
        rendering, terms = module(sample, names, frozenset())
        return rendering.rgb.sum() + rendering.opacity.sum() + sum(term.mean() for term in terms.values())

    kept = count(forward)

    def whole() -> None:
        forward().backward()

    both = count(whole)
    gradients = sum(p.grad.nbytes for p in module.parameters() if p.grad is not None)
    return both.flops, kept.kept_bytes, max(both.peak_bytes - gradients, kept.peak_bytes)
