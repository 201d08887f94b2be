"""Folders of models with random weights, in the layouts of diffusers and transformers."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (diffusers declares the types of its constructors and loaders too narrowly)

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from scaledreamer.tinyworld.text import build_tokenizer


def write_random_prior(folder: Path) -> Path:
    """A latent diffusion pipeline in the layout of diffusers, with random weights and 16-pixel images."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer: Any = build_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=16,
        eos_token_id=tokenizer.eos_token_id,
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    blocks: Any = {"block_out_channels": (4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2}
    blocks |= {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    AutoencoderKL(**blocks).save_pretrained(folder / "vae")
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=4,
        cross_attention_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    unet.save_pretrained(folder / "unet")
    DDIMScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    return folder


def save_stable_diffusion(folder: Path, prediction_type: str = "epsilon") -> Path:
    """A Stable Diffusion pipeline of 16-pixel images and 32 tokens."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    autoencoder = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=0.25,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        block_out_channels=(8, 8),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    scheduler = DDIMScheduler(prediction_type=prediction_type)
    StableDiffusionPipeline(
        autoencoder,
        CLIPTextModel(text),
        tokenizer,
        unet,
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def save_sdxl(folder: Path, prediction_type: str = "epsilon", **options: Any) -> Path:
    """An SDXL pipeline of 16-pixel images and 16 tokens.

    Args:
        options: of `StableDiffusionXLPipeline`.
    """
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    first, second = build_tokenizer(), build_tokenizer()
    first.model_max_length = second.model_max_length = 16
    second.pad_token = "!"  # as SDXL's second

    def text(width: int, num_layers: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(first),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=num_layers,
            num_attention_heads=2,
            max_position_embeddings=16,
            projection_dim=12,
            eos_token_id=first.eos_token_id,
            bos_token_id=first.bos_token_id,
            pad_token_id=first.pad_token_id,
        )

    autoencoder = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.13025,
        force_upcast=True,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=8 + 16,
        attention_head_dim=(1, 2),
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=12 + 6 * 8,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        timestep_spacing="leading",
    )
    StableDiffusionXLPipeline(
        autoencoder,
        CLIPTextModel(text(8, 2)),
        CLIPTextModelWithProjection(text(16, 3)),
        first,
        second,
        unet,
        scheduler,
        add_watermarker=False,
        **options,
    ).save_pretrained(folder)
    return folder


def save_tiny_clip(folder: Path, seed: int = 0) -> Path:
    """A random CLIPModel and the tinyworld's tokenizer, in the layout of the shipped CLIP."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = tower | special | {"vocab_size": len(tokenizer), "max_position_embeddings": 32}
    vision = tower | {"image_size": 64, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.half().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder
