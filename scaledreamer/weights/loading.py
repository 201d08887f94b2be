"""Loads latent diffusion models, in the diffusers layout or as single files, with helpful errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.weights import layout
from scaledreamer.weights.scheduler import scheduler_problem


def check_folder(source: str, required: tuple[str, ...], parts: tuple[str, ...]) -> None:
    """Checks that a folder (not a hub id) has these parts.

    Raises: ValueError with the first missing part, and the whole layout.
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
    """Turns any failure inside into a ValueError that names the prior and the part, except out of memory."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # a damaged file may lead to any error in the libraries
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
    """Loads a diffusers network from safetensors.

    Args:
        kind: its class.
        part: its folder.
        variant: "fp16" uses the files of that variant if the part has any.

    Raises: ValueError for missing weights; other errors are those of diffusers.
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


def load_text_encoder(
    source: str,
    dtype: torch.dtype,
    *,
    number: Literal["", "_2"] = "",
    variant: str | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """Loads a CLIP text encoder and tokenizer from `text_encoder/` and `tokenizer/` of a folder or hub id.

    Args:
        number: "_2" is SDXL's second encoder, with its projection, in `text_encoder_2/` and `tokenizer_2/`.
        variant: "fp16" uses the weights of that variant if there are any.

    Raises: ValueError with the reason if either is missing, damaged or of another kind.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    if Path(source).is_dir():
        variant = layout.part_variant(Path(source), f"text_encoder{number}", variant)
    kind: Any = CLIPTextModelWithProjection if number else CLIPTextModel
    try:
        tokenizer = CLIPTokenizer.from_pretrained(source, subfolder=f"tokenizer{number}", **options)
        encoder, report = kind.from_pretrained(
            source,
            subfolder=f"text_encoder{number}",
            dtype=dtype,
            variant=variant,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # named below
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # a damaged file may lead to any error in the libraries
        raise ValueError(" ".join(str(error).split())[:300] or type(error).__name__) from None
    wrong = sorted(report["missing_keys"]) + sorted(key for key, *_ in report["mismatched_keys"])
    if wrong:
        raise ValueError(
            f"text_encoder{number}/ has no weights for {wrong[0]} of the size in its config.json"
        )
    # Without its files the library makes an empty tokenizer; a complete one has at least 2 * 256 tokens.
    if not 512 <= len(tokenizer) <= encoder.config.vocab_size:
        raise ValueError(
            f"tokenizer{number}/ has {len(tokenizer)} tokens, text_encoder{number}/ "
            f"{encoder.config.vocab_size}, so they do not belong together"
        )
    return encoder, tokenizer


def load_single_file(
    kind: Any, file: Path, configurations: str | Path, autoencoder: Any, dtype: torch.dtype, **options: Any
) -> Any:
    """Loads a pipeline from a single .safetensors file, without downloads.

    Args:
        kind: class of the pipeline.
        configurations: folder in the diffusers layout with configurations and tokenizers.
        autoencoder: the autoencoder of the same file, which may have another dtype.
        options: options of the pipeline.

    Raises: ValueError for missing weights; other errors are those of diffusers.
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
    """Loads the autoencoder of a single-file checkpoint."""
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
    """alpha_bar and prediction type from `scheduler/`, for any of diffusers' schedulers.

    Raises: ValueError for schedulers that `NoiseSchedule` cannot represent.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    config: Any = DDIMScheduler.load_config(source, subfolder="scheduler")
    problem = scheduler_problem(config)
    if problem is not None:
        raise ValueError(problem)
    scheduler: Any = DDIMScheduler.from_config(config)
    return scheduler.alphas_cumprod, scheduler.config["prediction_type"]
