"""What all latent diffusion models of the diffusers layout share: noise schedule, autoencoder, sampling, and
loading that says what is wrong.

Letters and axes as in `priors/base.py`; `v` is the network's output where it predicts v.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scaledreamer.priors import layout
from scaledreamer.priors.base import TextEmbedding

if TYPE_CHECKING:
    from scaledreamer.priors.base import DiffusionPrior

# --- noise -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NoiseSchedule:
    """The discrete steps of a network, and what its output means.

    Times between steps are rounded to the nearest step, for `alpha` and `sigma` alike, so that noise level
    and the network's time always agree.

    Attributes:
        alpha_bar: cumulative product of the scheduler, one value per step, on the network's device.
        prediction_type: "epsilon" or "v_prediction".
    """

    alpha_bar: Float[Tensor, " step"]
    prediction_type: str

    def __post_init__(self) -> None:
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"the scheduler's prediction_type is {self.prediction_type!r}; accepted are "
                "'epsilon' and 'v_prediction'."
            )

    def steps(self, t: Float[Tensor, " image"]) -> Int[Tensor, " image"]:
        """The network's nearest step."""
        last = len(self.alpha_bar) - 1
        return (t * len(self.alpha_bar)).round().long().clamp(0, last)

    def alpha(self, t: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Square root of alpha_bar at the nearest step."""
        return self.alpha_bar[self.steps(t)].sqrt()

    def sigma(self, t: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Square root of 1 - alpha_bar at the nearest step."""
        return (1 - self.alpha_bar[self.steps(t)]).sqrt()

    def epsilon(
        self,
        output: Float[Tensor, "image c h w"],
        x_t: Float[Tensor, "image c h w"],
        t: Float[Tensor, " image"],
    ) -> Float[Tensor, "image c h w"]:
        """Epsilon of the network's output; `eps = alpha v + sigma x_t` where it predicts v (Salimans and Ho
        2022, appendix D)."""
        if self.prediction_type == "epsilon":
            return output
        alpha, sigma = self.alpha(t)[:, None, None, None], self.sigma(t)[:, None, None, None]
        return alpha * output + sigma * x_t


@torch.no_grad()
def ddim(
    prior: DiffusionPrior,
    prompts: list[str],
    noise: Float[Tensor, "image c h w"],
    *,
    guidance_scale: float,
    num_steps: int,
) -> Float[Tensor, "image c h w"]:
    """Latents of prompts by DDIM (Song et al. 2021) with classifier-free guidance."""
    text, null = prior.encode_text(prompts), prior.encode_text([""])
    null = null[torch.zeros(len(prompts), dtype=torch.long)]
    conditioning = TextEmbedding.cat([text, null])
    times = torch.linspace(1, 0, num_steps + 1, device=noise.device)
    x = noise
    for now, then in zip(times[:-1], times[1:], strict=True):
        t = now.expand(len(x))
        eps_text, eps_uncond = prior.predict_noise(torch.cat([x, x]), t.repeat(2), conditioning).chunk(2)
        eps = eps_uncond + guidance_scale * (eps_text - eps_uncond)
        alpha, sigma = prior.alpha(t)[:, None, None, None], prior.sigma(t)[:, None, None, None]
        clean = (x - sigma * eps) / alpha
        last = then == 0
        t_next = then.expand(len(x))
        alpha_next, sigma_next = (
            prior.alpha(t_next)[:, None, None, None],
            prior.sigma(t_next)[:, None, None, None],
        )
        x = clean if last else alpha_next * clean + sigma_next * eps
    return x


# --- autoencoder -------------------------------------------------------------------------------------------


def image_size(autoencoder: Any, unet: Any) -> int:
    """Edge in pixels of the images whose latents a UNet was trained on."""
    return unet.config.sample_size * 2 ** (len(autoencoder.config.block_out_channels) - 1)


def encode_image(
    autoencoder: Any,
    images: Float[Tensor, "image 3 h w"],
    noise: Float[Tensor, "image c h_latent w_latent"] | None = None,
) -> Float[Tensor, "image c h_latent w_latent"]:
    """See `DiffusionPrior.encode_image`."""
    signed = (images * 2 - 1).to(autoencoder.dtype)
    posterior = autoencoder.encode(signed).latent_dist
    latents = (
        posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(posterior.mean.dtype)
    )
    shift, scale = _shift_and_scale(autoencoder.config, latents.device)
    at_least_single = torch.promote_types(latents.dtype, torch.float32)
    return (latents.to(at_least_single) - shift) * scale


@torch.no_grad()
def decode_latents(
    autoencoder: Any, latents: Float[Tensor, "image c h_latent w_latent"]
) -> Float[Tensor, "image 3 h w"]:
    """Images in [0, 1] of scaled latents."""
    shift, scale = _shift_and_scale(autoencoder.config, latents.device)
    unscaled = latents / scale + shift
    return (autoencoder.decode(unscaled.to(autoencoder.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)


def _shift_and_scale(config: Any, device: torch.device) -> tuple[float | Tensor, float | Tensor]:
    """Scaled latents are `(latents - shift) * scale`, with numbers of each channel where there are some."""
    if config.latents_mean is None or config.latents_std is None:
        return config.shift_factor or 0.0, config.scaling_factor
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    return mean, config.scaling_factor / std


# --- loading -----------------------------------------------------------------------------------------------


def check_folder(source: str, required: tuple[str, ...], parts: tuple[str, ...]) -> None:
    """Nothing for a hub id, or a folder that has these parts.

    Raises: ValueError with the first part that it lacks, and the whole layout.
    """
    if not Path(source).is_dir():
        return
    for part in required:
        if not (Path(source) / part.removesuffix("/")).exists():
            raise ValueError(
                f"prior {source}: no {part} in this folder; give a pipeline folder of the diffusers layout "
                f"({', '.join(parts)}) or a hub id."
            )


@contextmanager
def loading(source: str, part: str = "its weights") -> Iterator[None]:
    """Any failure inside becomes a ValueError that names the prior and the part; memory that ran out stays as
    it is."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # the libraries let through whatever a damaged file leads to
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"prior {source}: {part} cannot be loaded ({reason}); give a folder in the "
            "diffusers layout with safetensors, or a hub id that can be reached."
        ) from None


def load_network(
    kind: Any,
    source: str,
    part: str,
    dtype: torch.dtype,
    device: torch.device | str,
    variant: str | None = None,
) -> Any:
    """One of diffusers' networks from safetensors.

    Args:
        kind: its class.
        part: its folder.
        variant: "fp16" takes the files of that name, in a folder where the part has some.

    Raises: ValueError for weights that are missing; whatever diffusers raises for others.
    """
    if Path(source).is_dir():
        variant = layout.part_variant(Path(source), part, variant)
    network, report = kind.from_pretrained(
        source,
        subfolder=part,
        torch_dtype=dtype,
        variant=variant,
        use_safetensors=True,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        raise ValueError(f"{part}/ has no weights for {min(report['missing_keys'])}")
    return network.to(device, memory_format=torch.channels_last)


def load_single_file(
    kind: Any, file: Path, configurations: str | Path, autoencoder: Any, dtype: torch.dtype, **options: Any
) -> Any:
    """A pipeline from a checkpoint in one .safetensors file; nothing is downloaded.

    Args:
        kind: class of the pipeline.
        configurations: folder of the diffusers layout, whose configurations and tokenizers it takes.
        autoencoder: of the same file, which may have a dtype of its own.
        options: of the pipeline.

    Raises: ValueError for weights that are missing; whatever diffusers raises for others.
    """
    pipe = kind.from_single_file(
        str(file),
        config=str(configurations),
        vae=autoencoder,
        torch_dtype=dtype,
        local_files_only=True,
        feature_extractor=None,
        image_encoder=None,
        **options,
    )
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            _check_single_file_part(part, name)
    return pipe


def load_single_file_autoencoder(file: Path, configurations: str | Path, dtype: torch.dtype) -> Any:
    """The autoencoder of a checkpoint in one file."""
    from diffusers import AutoencoderKL

    autoencoder: Any = AutoencoderKL
    return autoencoder.from_single_file(
        str(file), config=str(configurations), subfolder="vae", torch_dtype=dtype, local_files_only=True
    )


def _check_single_file_part(part: torch.nn.Module, name: str) -> None:
    empty = [key for key, value in part.state_dict().items() if value.is_meta]
    if empty:
        raise ValueError(f"the file has no weights for {name}: {min(empty)}")


def load_scheduler(source: str) -> tuple[Float[Tensor, " step"], str]:
    """alpha_bar and prediction type of `scheduler/`, whichever of diffusers' schedulers is named there.

    Raises: ValueError for schedulers of another diffusion than `NoiseSchedule`'s.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    config: Any = DDIMScheduler.load_config(source, subfolder="scheduler")
    name = str(config.get("_class_name"))
    if name.startswith(("EDM", "FlowMatch")):
        raise ValueError(f"scheduler/ is {name}; only networks of alpha_bar's discrete steps are read")
    scheduler: Any = DDIMScheduler.from_config(config)
    return scheduler.alphas_cumprod, scheduler.config["prediction_type"]


class LatentDiffusionPrior:
    """What latent diffusion priors do alike; each encodes text and predicts noise in its own way."""

    _autoencoder: Any
    _schedule: NoiseSchedule

    def encode_image(
        self,
        images: Float[Tensor, "image 3 h w"],
        noise: Float[Tensor, "image c h_latent w_latent"] | None = None,
    ) -> Float[Tensor, "image c h_latent w_latent"]:
        """See `DiffusionPrior.encode_image`; images at the prior's `image_size`."""
        return encode_image(self._autoencoder, images, noise)

    def decode_latents(
        self, latents: Float[Tensor, "image c h_latent w_latent"]
    ) -> Float[Tensor, "image 3 h w"]:
        """Images in [0, 1] of scaled latents."""
        return decode_latents(self._autoencoder, latents)

    def alpha(self, t: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Square root of the scheduler's alpha_bar at the nearest step."""
        return self._schedule.alpha(t)

    def sigma(self, t: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Square root of 1 - alpha_bar at the nearest step."""
        return self._schedule.sigma(t)

    def sample(
        self,
        prompts: list[str],
        noise: Float[Tensor, "image c h_latent w_latent"],
        *,
        guidance_scale: float = 7.5,
        num_steps: int = 30,
    ) -> Float[Tensor, "image 3 h w"]:
        """Images of prompts by DDIM with classifier-free guidance: to look at what a prior knows."""
        prior: Any = self  # with what the two priors add
        return self.decode_latents(
            ddim(prior, prompts, noise, guidance_scale=guidance_scale, num_steps=num_steps)
        )
