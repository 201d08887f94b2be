"""The architectures of Stable Diffusion 1.5, 2.1 (base, 512 pixels) and XL in their published sizes, without
weights, for counting costs and measuring speed.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from scaledreamer.priors.latent_diffusion import LatentDiffusionPrior

NAMES = ("sd15", "sd21", "sdxl")
Name = Literal["sd15", "sd21", "sdxl"]
NUM_TOKENS = 77

_UNET: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        "sample_size": 64,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),  # these are numbers of heads, despite the name
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
_VAE_OF = {
    "sd15": {"sample_size": 512, "scaling_factor": 0.18215},
    "sd21": {"sample_size": 512, "scaling_factor": 0.18215},
    "sdxl": {"sample_size": 1024, "scaling_factor": 0.13025},
}
_TEXT: dict[str, dict[str, Any]] = {
    "clip_l": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
    },
    "openclip_h": {
        "hidden_size": 1024,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
    "openclip_g": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "hidden_act": "gelu",
    },
}
_TEXTS_OF = {"sd15": ("clip_l",), "sd21": ("openclip_h",), "sdxl": ("clip_l", "openclip_g")}

_SMALL_CHANNELS = 32  # of the first level; its layers and blocks stay as they are, and one level has 64


def full_size(
    name: Name, dtype: torch.dtype = torch.float32, *, small: bool = False, image_size: int | None = None
) -> dict[str, nn.Module]:
    """Networks on the meta device: shapes without weights.

    Args:
        name: "sd15", "sd21" or "sdxl".
        small: few channels in the same layout, and images of 64 pixels.
        image_size: in pixels, a multiple of 8 (of 64 for whole levels); None is the published one.

    Returns: unet, vae, text_encoder and, for SDXL, text_encoder_2.

    Raises: ValueError for an image size that the autoencoder does not divide.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    unet = dict(_UNET[name])
    vae, texts = _VAE | _VAE_OF[name], [dict(_TEXT[text]) for text in _TEXTS_OF[name]]
    if small:
        texts = [
            text | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2} for text in texts
        ]
        channels = len(unet.get("block_out_channels", range(4)))
        unet |= {
            "sample_size": 8,
            "block_out_channels": (_SMALL_CHANNELS, *[2 * _SMALL_CHANNELS] * (channels - 1)),
            "cross_attention_dim": 32 * len(texts),
        }
        if name != "sd15":
            unet["attention_head_dim"] = (1, *[2] * (channels - 1))
        if name == "sdxl":
            unet["projection_class_embeddings_input_dim"] = 6 * unet["addition_time_embed_dim"] + 32
        vae |= {"sample_size": 64, "block_out_channels": (32, 32, 64, 64)}
    if image_size is not None:
        if image_size < 8 or image_size % 8:
            raise ValueError(f"image size: got {image_size}; accepted are multiples of 8, the autoencoder's.")
        unet["sample_size"], vae["sample_size"] = image_size // 8, image_size

    def text_config(numbers: dict[str, Any]) -> Any:
        width = numbers["hidden_size"]
        return CLIPTextConfig(
            vocab_size=49408,
            intermediate_size=4 * width,
            max_position_embeddings=NUM_TOKENS,
            projection_dim=width,
            **numbers,
        )

    with torch.device("meta"):
        networks: dict[str, nn.Module] = {
            "unet": UNet2DConditionModel(**unet),
            "vae": AutoencoderKL(**vae),
            "text_encoder": CLIPTextModel(text_config(texts[0])),
        }
        if len(texts) > 1:
            networks["text_encoder_2"] = CLIPTextModelWithProjection(text_config(texts[1]))
    return {part: nn.Module.to(network, dtype) for part, network in networks.items()}  # diffusers' own warns


def assemble(
    name: Name, networks: dict[str, nn.Module], prediction_type: str = "epsilon"
) -> LatentDiffusionPrior:
    """A prior of these networks, with Stable Diffusion's noise schedule and without tokenizers, so that it
    cannot encode text."""
    from scaledreamer.priors.sdxl import SDXLPrior
    from scaledreamer.priors.stable_diffusion import StableDiffusionPrior

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2  # "scaled_linear"
    alpha_bar = (1 - betas).cumprod(0)
    vae, unet, text_encoder = networks["vae"], networks["unet"], networks["text_encoder"]
    if name != "sdxl":
        return StableDiffusionPrior(vae, unet, text_encoder, None, alpha_bar, prediction_type)
    return SDXLPrior(
        vae, unet, text_encoder, None, networks["text_encoder_2"], None, alpha_bar, prediction_type
    )


@torch.no_grad()
def fill_with_noise(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Gives a meta network random weights on a device in its own dtype, scaled to preserve magnitudes.

    Raises: ValueError if it has buffers, whose values are not random.
    """
    if any(True for _ in network.buffers()):
        raise ValueError(f"{type(network).__name__} has buffers, which noise cannot fill.")
    network = network.to_empty(device=device)
    for parameter_name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.fill_(parameter_name.endswith("weight"))  # of norms; biases are zero
    return network
