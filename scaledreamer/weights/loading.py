"""Loading of latent diffusion models, in the diffusers layout or as single files, that says what is wrong."""

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


def load_text_encoder(
    source: str,
    dtype: torch.dtype,
    *,
    number: Literal["", "_2"] = "",
    variant: str | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """CLIP text encoder and tokenizer of `text_encoder/` and `tokenizer/` in a folder or hub id.

    Args:
        number: "_2" is SDXL's second encoder, with its projection, of `text_encoder_2/` and `tokenizer_2/`.
        variant: "fp16" takes the weights of that name, in a folder where there are some.

    Raises: ValueError with the reason alone if either is missing, damaged or of another kind.
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
    except Exception as error:  # the libraries let through whatever a damaged file leads to
        raise ValueError(" ".join(str(error).split())[:300] or type(error).__name__) from None
    wrong = sorted(report["missing_keys"]) + sorted(key for key, *_ in report["mismatched_keys"])
    if wrong:
        raise ValueError(
            f"text_encoder{number}/ has no weights for {wrong[0]} of the size in its config.json"
        )
    # Without its files the library makes an empty tokenizer; a whole one has at least 256 bytes, twice.
    if not 512 <= len(tokenizer) <= encoder.config.vocab_size:
        raise ValueError(
            f"tokenizer{number}/ has {len(tokenizer)} tokens, text_encoder{number}/ "
            f"{encoder.config.vocab_size}, so they do not belong together"
        )
    return encoder, tokenizer


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
    problem = scheduler_problem(config)
    if problem is not None:
        raise ValueError(problem)
    scheduler: Any = DDIMScheduler.from_config(config)
    return scheduler.alphas_cumprod, scheduler.config["prediction_type"]
