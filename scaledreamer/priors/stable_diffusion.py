"""Latent diffusion in Stable Diffusion's layout as a prior, including the shipped tinyworld prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.contracts import PriorInputs, PriorText
from scaledreamer.priors.latent_diffusion import LatentDiffusionPrior
from scaledreamer.weights.loading import (
    check_folder,
    load_network,
    load_scheduler,
    load_single_file,
    load_single_file_autoencoder,
    load_text_encoder,
    loading,
)

LAYOUT = ("model_index.json", "vae/", "unet/", "text_encoder/", "tokenizer/", "scheduler/")


class StableDiffusionPrior(LatentDiffusionPrior):
    """AutoencoderKL, UNet2DConditionModel and CLIP text encoder behind the `Prior` contract.

    Args:
        autoencoder, unet, text_encoder, tokenizer: diffusers' and transformers' objects.
        alpha_bar: cumulative product of the scheduler, one value per step.
        prediction_type: "epsilon" or "v_prediction".
    """

    def __init__(
        self,
        autoencoder: Any,
        unet: Any,
        text_encoder: Any,
        tokenizer: Any,
        alpha_bar: Float[Tensor, " step"],
        prediction_type: str,
    ) -> None:
        if unet.config.addition_embed_type == "text_time":
            raise ValueError("unet/ is SDXL's, which has two text encoders; load it as sdxl.")
        self._hold(autoencoder, unet, ((text_encoder, tokenizer),), alpha_bar, prediction_type)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        variant: str | None = None,
        single_file: Path | None = None,
    ) -> StableDiffusionPrior:
        """Loads a pipeline folder in the diffusers layout, or a hub id, from safetensors only.

        Args:
            variant: "fp16" uses the files of that variant, as far as they exist in a folder.
            single_file: a .safetensors checkpoint with all weights; the folder then only provides
                configurations and tokenizers.

        Raises: ValueError if weights are missing or not of this family.
        """
        from diffusers import AutoencoderKL, UNet2DConditionModel

        source = str(folder_or_id)
        check_folder(source, ("unet/",), LAYOUT)
        if single_file is not None:
            parts = _load_single_file(single_file, source, device, dtype)
            schedule = load_scheduler(source)
        else:
            with loading(source):
                text_encoder, tokenizer = load_text_encoder(source, dtype, variant=variant)
                autoencoder = load_network(AutoencoderKL, source, "vae", dtype, device, variant)
                unet = load_network(UNet2DConditionModel, source, "unet", dtype, device, variant)
                schedule = load_scheduler(source)
            parts = (autoencoder, unet, text_encoder.to(device), tokenizer)
        try:
            return cls(*parts, *schedule)
        except ValueError as error:
            raise ValueError(f"prior {source}: {error}") from None

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> PriorText:
        """Token embeddings padded to full length, as in Stable Diffusion; longer text is cut."""
        self._check_text_encoders(prompts)
        ((encoder, tokenizer),) = self._encoders
        ids = tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=encoder.config.max_position_embeddings,
            return_tensors="pt",
        ).input_ids
        return PriorText(encoder(ids.to(self._unet.device)).last_hidden_state)

    def _network_output(self, x_t: Tensor, steps: Tensor, inputs: PriorInputs) -> Tensor:
        return self._unet(x_t, steps, inputs.text.tokens.to(x_t.dtype)).sample


def _load_single_file(
    file: Path, configurations: str, device: torch.device | str, dtype: torch.dtype
) -> tuple[Any, Any, Any, Any]:
    from diffusers import StableDiffusionPipeline

    with loading(str(file)):
        autoencoder = load_single_file_autoencoder(file, configurations, dtype)
        pipe = load_single_file(
            StableDiffusionPipeline,
            file,
            configurations,
            autoencoder,
            dtype,
            safety_checker=None,
            requires_safety_checker=False,
        )
        pipe.to(device)
        for network in (pipe.vae, pipe.unet):
            network.to(memory_format=torch.channels_last)
    return pipe.vae, pipe.unet, pipe.text_encoder, pipe.tokenizer
