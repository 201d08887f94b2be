"""Latent diffusion in Stable Diffusion's layout as a prior: the shipped tinyworld prior, and any folder like
it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.priors.base import TextEmbedding
from scaledreamer.prompts.conditioner import load_text_encoder


class StableDiffusionPrior:
    """AutoencoderKL, UNet2DConditionModel and CLIP text encoder behind the `DiffusionPrior` contract.

    Times between the network's discrete steps are rounded to the nearest step, for `alpha` and `sigma` alike,
    so that noise level and the network's time always agree.

    Args:
        autoencoder, unet, text_encoder, tokenizer: diffusers' and transformers' objects.
        alpha_bar: cumulative product of the scheduler, one value per step.
        prediction_type: "epsilon" or "v_prediction".
    """

    num_views = 1

    def __init__(
        self,
        autoencoder: Any,
        unet: Any,
        text_encoder: Any,
        tokenizer: Any,
        alpha_bar: Float[Tensor, " step"],
        prediction_type: str,
    ) -> None:
        if prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"the scheduler's prediction_type is {prediction_type!r}; accepted are "
                "'epsilon' and 'v_prediction'."
            )
        for module in (autoencoder, unet, text_encoder):
            module.eval().requires_grad_(False)
        self._autoencoder, self._unet = autoencoder, unet
        self._text_encoder, self._tokenizer = text_encoder, tokenizer
        self._alpha_bar = alpha_bar.to(unet.device, torch.float32)
        self._prediction_type = prediction_type
        latent_size = unet.config.sample_size
        self.latent_shape = (unet.config.in_channels, latent_size, latent_size)
        self.image_size = latent_size * 2 ** (len(autoencoder.config.block_out_channels) - 1)

    @classmethod
    def from_pretrained(
        cls, folder_or_id: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> StableDiffusionPrior:
        """Loads a pipeline folder of the diffusers layout, or a hub id, from safetensors only.

        Raises: ValueError if the weights are not there or are not of this family.
        """
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        source = str(folder_or_id)
        if Path(source).is_dir() and not (Path(source) / "unet").is_dir():
            raise ValueError(
                f"prior {source}: no unet/ in this folder; give a pipeline folder of the diffusers layout "
                "(model_index.json, vae/, unet/, text_encoder/, tokenizer/, scheduler/) or a hub id."
            )
        options: dict[str, Any] = {"torch_dtype": dtype, "use_safetensors": True}
        autoencoder: Any
        unet: Any
        scheduler: Any  # diffusers declares what its loaders return too narrowly
        try:
            text_encoder, tokenizer = load_text_encoder(source, dtype)
            autoencoder = AutoencoderKL.from_pretrained(source, subfolder="vae", **options)
            unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet", **options)
            scheduler = DDIMScheduler.from_pretrained(source, subfolder="scheduler")
            autoencoder.to(device, memory_format=torch.channels_last)
            unet.to(device, memory_format=torch.channels_last)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # the libraries let through whatever a damaged file leads to
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ValueError(
                f"prior {source}: its weights cannot be loaded ({reason}); give a folder in the "
                "diffusers layout with safetensors, or a hub id that can be reached."
            ) from None
        parts = (autoencoder, unet, text_encoder.to(device), tokenizer)
        try:
            return cls(*parts, scheduler.alphas_cumprod, scheduler.config["prediction_type"])
        except ValueError as error:
            raise ValueError(f"prior {source}: {error}") from None

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> TextEmbedding:
        """Token embeddings padded to the encoder's full length, as Stable Diffusion reads them; longer text
        is cut."""
        ids = self._tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=self._text_encoder.config.max_position_embeddings,
            return_tensors="pt",
        ).input_ids
        return TextEmbedding(self._text_encoder(ids.to(self._unet.device)).last_hidden_state)

    def encode_image(
        self,
        images: Float[Tensor, "image 3 h w"],
        noise: Float[Tensor, "image c h_latent w_latent"] | None = None,
    ) -> Float[Tensor, "image c h_latent w_latent"]:
        """See `DiffusionPrior.encode_image`; images at the prior's `image_size`."""
        config = self._autoencoder.config
        signed = (images * 2 - 1).to(self._autoencoder.dtype)
        posterior = self._autoencoder.encode(signed).latent_dist
        latents = (
            posterior.mean
            if noise is None
            else posterior.mean + posterior.std * noise.to(posterior.mean.dtype)
        )
        return (latents.float() - (config.shift_factor or 0.0)) * config.scaling_factor

    @torch.no_grad()
    def decode_latents(
        self, latents: Float[Tensor, "image c h_latent w_latent"]
    ) -> Float[Tensor, "image 3 h w"]:
        """Images in [0, 1] of scaled latents."""
        config = self._autoencoder.config
        unscaled = latents / config.scaling_factor + (config.shift_factor or 0.0)
        return (
            self._autoencoder.decode(unscaled.to(self._autoencoder.dtype)).sample.float() / 2 + 0.5
        ).clamp(0, 1)

    def _steps(self, t: Tensor) -> Tensor:
        last = len(self._alpha_bar) - 1
        return (t * len(self._alpha_bar)).round().long().clamp(0, last)

    def alpha(self, t: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Square root of the scheduler's alpha_bar at the nearest step."""
        return self._alpha_bar[self._steps(t)].sqrt()

    def sigma(self, t: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Square root of 1 - alpha_bar at the nearest step."""
        return (1 - self._alpha_bar[self._steps(t)]).sqrt()

    @torch.no_grad()
    def predict_noise(
        self,
        x_t: Float[Tensor, "image c h_latent w_latent"],
        t: Float[Tensor, " image"],
        conditioning: TextEmbedding,
    ) -> Float[Tensor, "image c h_latent w_latent"]:
        """Epsilon from the UNet; `eps = alpha v + sigma x_t` where it predicts v (Salimans and Ho 2022,
        appendix D)."""
        dtype = self._unet.dtype
        output = self._unet(x_t.to(dtype), self._steps(t), conditioning.tokens.to(dtype)).sample.float()
        if self._prediction_type == "epsilon":
            return output
        alpha, sigma = self.alpha(t)[:, None, None, None], self.sigma(t)[:, None, None, None]
        return alpha * output + sigma * x_t

    @torch.no_grad()
    def sample(
        self,
        prompts: list[str],
        noise: Float[Tensor, "image c h_latent w_latent"],
        *,
        guidance_scale: float = 7.5,
        num_steps: int = 30,
    ) -> Float[Tensor, "image 3 h w"]:
        """Images of prompts by DDIM (Song et al. 2021) with classifier-free guidance: to look at what a prior
        knows."""
        text, null = self.encode_text(prompts), self.encode_text([""])
        null = null[torch.zeros(len(prompts), dtype=torch.long)]
        conditioning = TextEmbedding.cat([text, null])
        times = torch.linspace(1, 0, num_steps + 1, device=noise.device)
        x = noise
        for now, then in zip(times[:-1], times[1:], strict=True):
            t = now.expand(len(x))
            eps_text, eps_uncond = self.predict_noise(torch.cat([x, x]), t.repeat(2), conditioning).chunk(2)
            eps = eps_uncond + guidance_scale * (eps_text - eps_uncond)
            alpha, sigma = self.alpha(t)[:, None, None, None], self.sigma(t)[:, None, None, None]
            clean = (x - sigma * eps) / alpha
            last = then == 0
            t_next = then.expand(len(x))
            alpha_next, sigma_next = (
                self.alpha(t_next)[:, None, None, None],
                self.sigma(t_next)[:, None, None, None],
            )
            x = clean if last else alpha_next * clean + sigma_next * eps
        return self.decode_latents(x)
