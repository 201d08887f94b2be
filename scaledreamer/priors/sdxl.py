"""Stable Diffusion XL (Podell et al. 2023) as a prior: two text encoders, and a UNet conditioned on sizes.

Besides the noised latents, the UNet reads

- tokens: the penultimate hidden states of both text encoders, concatenated;
- pooled: the second encoder's projected embedding of the whole text;
- time ids: (height, width) of the image before any crop, (top, left) of the crop, (height, width) of the
  target image. Here they are always (size, size, 0, 0, size, size): an uncropped image at the prior's size.
"""

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

LAYOUT = (
    "model_index.json",
    "vae/",
    "unet/",
    "text_encoder/",
    "text_encoder_2/",
    "tokenizer/",
    "tokenizer_2/",
    "scheduler/",
)


class SDXLPrior(LatentDiffusionPrior):
    """SDXL's AutoencoderKL, UNet2DConditionModel and two CLIP text encoders behind the `Prior`
    contract.

    Args:
        autoencoder, unet: diffusers' objects; the autoencoder may have a dtype of its own.
        text_encoder, tokenizer: transformers' CLIPTextModel and its tokenizer.
        text_encoder_2, tokenizer_2: CLIPTextModelWithProjection and its tokenizer.
        alpha_bar: cumulative product of the scheduler, one value per step.
        prediction_type: "epsilon" or "v_prediction".
        zeros_for_empty_prompt: whether the unconditional text "" is all zeros instead of being encoded
            (`force_zeros_for_empty_prompt` in diffusers).

    Raises: ValueError for parts that are not SDXL's or do not belong together.
    """

    def __init__(
        self,
        autoencoder: Any,
        unet: Any,
        text_encoder: Any,
        tokenizer: Any,
        text_encoder_2: Any,
        tokenizer_2: Any,
        alpha_bar: Float[Tensor, " step"],
        prediction_type: str,
        zeros_for_empty_prompt: bool = True,
    ) -> None:
        _check_parts(unet, text_encoder, text_encoder_2)
        encoders = ((text_encoder, tokenizer), (text_encoder_2, tokenizer_2))
        self._hold(autoencoder, unet, encoders, alpha_bar, prediction_type)
        self.pooled_dim = text_encoder_2.config.projection_dim
        self._zeros_for_empty_prompt = zeros_for_empty_prompt
        size = float(self.image_size)
        self._time_ids = torch.tensor([size, size, 0, 0, size, size], device=unet.device)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        variant: str | None = None,
        single_file: Path | None = None,
    ) -> SDXLPrior:
        """Loads a pipeline folder in the diffusers layout, or a hub id, from safetensors only.

        The autoencoder is in float32 for any `dtype`, because SDXL's overflows in float16, unless its
        config.json says `force_upcast: false`, as for repaired autoencoders. The encoding of "" follows
        `force_zeros_for_empty_prompt` in model_index.json, which is true by default.

        Args:
            variant: "fp16" uses the files of that variant, as far as they exist in a folder.
            single_file: a .safetensors checkpoint with all weights; the folder then only provides
                configurations and tokenizers.

        Raises: ValueError naming a part that is missing, damaged or not of this family.
        """
        from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel

        source = str(folder_or_id)
        check_folder(source, LAYOUT, LAYOUT)
        with loading(source, "model_index.json"):
            zeros_for_empty_prompt = _zeros_for_empty_prompt(DiffusionPipeline.load_config(source))
        with loading(source, "vae/"):
            config: Any = AutoencoderKL.load_config(source, subfolder="vae")
            is_upcast = config.get("force_upcast", True)
            vae_dtype = torch.promote_types(dtype, torch.float32) if is_upcast else dtype
        if single_file is not None:
            parts = _load_single_file(single_file, source, device, dtype, vae_dtype)
        else:
            with loading(source, "text_encoder/ and tokenizer/"):
                text_encoder, tokenizer = load_text_encoder(source, dtype, variant=variant)
                text_encoder.to(device)
            with loading(source, "text_encoder_2/ and tokenizer_2/"):
                text_encoder_2, tokenizer_2 = load_text_encoder(source, dtype, number="_2", variant=variant)
                text_encoder_2.to(device)
            with loading(source, "vae/"):
                autoencoder = load_network(AutoencoderKL, source, "vae", vae_dtype, device, variant)
            with loading(source, "unet/"):
                unet = load_network(UNet2DConditionModel, source, "unet", dtype, device, variant)
            parts = (autoencoder, unet, text_encoder, tokenizer, text_encoder_2, tokenizer_2)
        with loading(source, "scheduler/"):
            schedule = load_scheduler(source)
        try:
            return cls(*parts, *schedule, zeros_for_empty_prompt)
        except ValueError as error:
            raise ValueError(f"prior {source}: {error}") from None

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> PriorText:
        """Both encoders' tokens, concatenated, and the second's pooled embedding, padded to full length;
        longer text is cut. "" is zeros with `zeros_for_empty_prompt`."""
        self._check_text_encoders(prompts)
        tokens, pooled = [], None
        for encoder, tokenizer in self._encoders:
            ids = tokenizer(
                prompts,
                padding="max_length",
                truncation=True,
                max_length=encoder.config.max_position_embeddings,
                return_tensors="pt",
            ).input_ids
            output = encoder(ids.to(self._unet.device), output_hidden_states=True)
            tokens.append(output.hidden_states[-2])
            pooled = output.get("text_embeds")
        assert pooled is not None
        encoded = PriorText(torch.cat(tokens, dim=-1), pooled)
        if self._zeros_for_empty_prompt:
            is_empty = torch.tensor([not prompt for prompt in prompts], device=pooled.device)
            encoded.tokens[is_empty] = 0
            pooled[is_empty] = 0
        return encoded

    def _network_output(self, x_t: Tensor, steps: Tensor, inputs: PriorInputs) -> Tensor:
        assert inputs.text.pooled is not None
        added = {
            "text_embeds": inputs.text.pooled.to(x_t.dtype),
            "time_ids": self._time_ids.expand(len(x_t), -1),
        }
        return self._unet(x_t, steps, inputs.text.tokens.to(x_t.dtype), added_cond_kwargs=added).sample


def _load_single_file(
    file: Path, configurations: str, device: torch.device | str, dtype: torch.dtype, vae_dtype: torch.dtype
) -> tuple[Any, Any, Any, Any, Any, Any]:
    from diffusers import StableDiffusionXLPipeline

    with loading(str(file)):
        autoencoder = load_single_file_autoencoder(file, configurations, vae_dtype)
        pipe = load_single_file(
            StableDiffusionXLPipeline, file, configurations, autoencoder, dtype, add_watermarker=False
        )
        for network in (pipe.vae, pipe.unet):
            network.to(device, memory_format=torch.channels_last)
        encoders = (pipe.text_encoder.to(device), pipe.tokenizer)
        encoders_2 = (pipe.text_encoder_2.to(device), pipe.tokenizer_2)
    return pipe.vae, pipe.unet, *encoders, *encoders_2


def _zeros_for_empty_prompt(index: Any) -> bool:
    value = index.get("force_zeros_for_empty_prompt", True)
    if not isinstance(value, bool):
        raise ValueError(f"force_zeros_for_empty_prompt is {value!r}; accepted are true and false")
    return value


def _check_parts(unet: Any, text_encoder: Any, text_encoder_2: Any) -> None:
    first, second, config = text_encoder.config, text_encoder_2.config, unet.config
    if config.addition_embed_type != "text_time":
        raise ValueError(
            f"unet/ is not SDXL's: its addition_embed_type is {config.addition_embed_type!r}, not "
            "'text_time'; Stable Diffusion 1.x and 2.x are stable_diffusion."
        )
    if first.max_position_embeddings != second.max_position_embeddings:
        raise ValueError(
            f"text_encoder/ reads {first.max_position_embeddings} tokens, text_encoder_2/ "
            f"{second.max_position_embeddings}, so they do not belong together."
        )
    width = first.hidden_size + second.hidden_size
    if config.cross_attention_dim != width:
        raise ValueError(
            f"text_encoder/ and text_encoder_2/ have {width} features together, unet/ reads "
            f"{config.cross_attention_dim}, so they do not belong together."
        )
    added = 6 * config.addition_time_embed_dim + second.projection_dim
    if unet.add_embedding.linear_1.in_features != added:
        raise ValueError(
            f"unet/ reads {unet.add_embedding.linear_1.in_features} added features, and 6 time ids with "
            f"text_encoder_2/ give {added}; SDXL's refiner is no prior here, its base is."
        )
