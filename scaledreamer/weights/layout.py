"""Which files of a pipeline are needed, and whether they are intact and of the right family. Needs no torch.

A pipeline in the diffusers layout is a folder of parts: networks (config.json and safetensors), tokenizers
and a scheduler. Functions here take the relative names of its files, with "/", and a function that reads one
of its JSON files, so that they work for a folder and for a listing from a hub.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STABLE_DIFFUSION = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
SDXL = ("model_index.json", *STABLE_DIFFUSION, "text_encoder_2", "tokenizer_2")
TEXT_ENCODER = ("text_encoder", "tokenizer")

NAMES = ("diffusion_pytorch_model", "model")
"""File names of a part's weights in diffusers and in transformers."""
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
READ = "read are UNets of Stable Diffusion 1.x and 2.x and of SDXL"
MAX_HEADER = 100_000_000
"""Maximum size in bytes of a safetensors header."""

Read = Callable[[str], Any]


class PlaceError(Exception):
    """Why a location of weights cannot be used, and what to do next; both are phrases for a message."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason, self.hint = reason, hint


@dataclass(frozen=True)
class Files:
    """The needed files of a pipeline.

    Attributes:
        present: needed files that exist.
        missing: needed files that do not exist; a missing part is listed as its name and "/".
        variant: "fp16" if the weights of any part are.
    """

    present: tuple[str, ...]
    missing: tuple[str, ...]
    variant: str | None


def wanted_variants(variant: str, is_half: bool) -> tuple[str | None, ...]:
    """Acceptable variants, in order of preference.

    Raises: PlaceError if `variant` is none of "auto", "fp16" and "none".
    """
    match variant:
        case "auto":
            return ("fp16", None) if is_half else (None, "fp16")
        case "fp16":
            return ("fp16",)
        case "none":
            return (None,)
    raise PlaceError(f"variant is {variant!r}", "accepted are 'auto', 'fp16' and 'none'")


def needed_files(
    names: Collection[str],
    parts: Sequence[str],
    variants: Sequence[str | None],
    read: Read,
    *,
    has_weights: bool = True,
) -> Files:
    """Files to load `parts` from; `parts` may name single files too.

    Args:
        has_weights: False is for configurations and tokenizers only.

    Raises: PlaceError for parts whose weights are pickled, or not available in these variants.
    """
    present = [name for name in ("model_index.json",) if name in names and name not in parts]
    missing, chosen = [], set()
    for part in parts:
        if part in names:
            present.append(part)
            continue
        inside = sorted(name for name in names if name.startswith(f"{part}/"))
        if not inside:
            missing.append(part if "." in part else f"{part}/")
        elif part.startswith("tokenizer"):
            vocabulary = [f"{part}/vocab.json", f"{part}/merges.txt"]
            is_whole = f"{part}/tokenizer.json" in names or all(name in names for name in vocabulary)
            missing += [] if is_whole else [f"{part}/tokenizer.json"]
            present += [name for name in inside if name.endswith((".json", ".txt"))]
        else:
            name = f"{part}/scheduler_config.json" if part == "scheduler" else f"{part}/config.json"
            (present if name in names else missing).append(name)
            if has_weights and part != "scheduler":
                here, gone, variant = _weights(names, part, variants, read)
                present, missing = present + here, missing + gone
                chosen.add(variant)
    return Files(tuple(present), tuple(missing), next((name for name in chosen if name), None))


def part_variant(folder: Path, part: str, variant: str | None) -> str | None:
    """`variant` if a part of a folder has weights of this variant, else None."""
    names = [f"{part}/{path.name}" for path in (folder / part).glob("*")]
    return variant if variant and _named_weights(names, part, variant) else None


def _named_weights(names: Collection[str], part: str, variant: str | None) -> str | None:
    """The single file of a part's weights, or the index of several."""
    dotted = f".{variant}" if variant else ""
    for name in NAMES:
        for found in (f"{part}/{name}{dotted}.safetensors", f"{part}/{name}.safetensors.index{dotted}.json"):
            if found in names:
                return found
    return None


def _weights(
    names: Collection[str], part: str, variants: Sequence[str | None], read: Read
) -> tuple[list[str], list[str], str | None]:
    """Present and missing files of a part's weights, and their variant."""
    for variant in variants:
        found = _named_weights(names, part, variant)
        if found is None:
            continue
        if not found.endswith(".json"):
            return [found], [], variant
        index = read(found)
        shards = set(index["weight_map"].values()) if _is_index(index) else set()
        if not shards:
            raise PlaceError(f"{found} names no files", "copy or download it again")
        needed = sorted(f"{part}/{shard}" for shard in shards)
        present = [name for name in needed if name in names]
        return [found, *present], [name for name in needed if name not in names], variant
    inside = [name for name in names if name.startswith(f"{part}/")]
    other = next((name for name in ("fp16", None) if _named_weights(inside, part, name)), "")
    if other != "":
        raise PlaceError(
            f"{part}/ has no safetensors {'of the variant fp16' if other is None else 'but those of fp16'}",
            "set weights.variant=auto to take those that are there",
        )
    pickled = [name for name in inside if name.endswith(PICKLED)]
    if pickled:
        raise PlaceError(
            f"{part}/ has pickled weights alone ({pickled[0].removeprefix(f'{part}/')}), which can run code "
            "when they are loaded and are refused",
            "convert them where you trust them: DiffusionPipeline.from_pretrained(PLACE, "
            "use_safetensors=False).save_pretrained(FOLDER), and give FOLDER",
        )
    name = NAMES[1] if part.startswith("text_encoder") else NAMES[0]
    dotted = f".{variants[0]}" if len(variants) == 1 and variants[0] else ""
    return [], [f"{part}/{name}{dotted}.safetensors"], None


def _is_index(index: Any) -> bool:
    shards = index.get("weight_map") if isinstance(index, dict) else None
    return isinstance(shards, dict) and all(isinstance(name, str) for name in shards.values())


# --- families ----------------------------------------------------------------------------------------------


def check_family(names: Collection[str], parts: Sequence[str], read: Read) -> None:
    """Checks that the files belong to the family of `parts`, as far as they allow to tell.

    Raises: PlaceError that says what they are instead.
    """
    for part in parts:
        if part.startswith("text_encoder") and f"{part}/config.json" in names:
            kinds = read_mapping(read, f"{part}/config.json").get("architectures") or ["CLIPTextModel"]
            if not str(kinds[0]).startswith("CLIPText"):
                raise PlaceError(
                    f"{part}/ is {kinds[0]}, not CLIP's", "give a model with CLIP's text encoder"
                )
    if "unet" not in parts:
        return
    index = read_mapping(read, "model_index.json") if "model_index.json" in names else {}
    kind = str(index.get("_class_name") or "another model")
    if "unet/config.json" not in names:
        if any(name.startswith("transformer/") for name in names):  # SD3, Flux and later
            raise PlaceError(f"is {kind}, with a transformer/ in place of the unet/", READ)
        return
    unet = read_mapping(read, "unet/config.json")
    _check_unet(unet, kind, is_sdxl_wanted="text_encoder_2" in parts)
    if index.get("requires_aesthetics_score") or list(index.get("text_encoder") or ())[1:] == [None]:
        raise PlaceError("is SDXL's refiner, which is no prior", "give its base model")


def _check_unet(unet: dict[str, Any], kind: str, *, is_sdxl_wanted: bool) -> None:
    network = unet.get("_class_name", "UNet2DConditionModel")
    addition = unet.get("addition_embed_type")
    if network != "UNet2DConditionModel" or addition not in (None, "text", "text_time"):
        raise PlaceError(f"is {kind}, whose unet/ is {network} with addition_embed_type {addition!r}", READ)
    added = unet.get("in_channels", 4) - unet.get("out_channels", 4)
    if added != 0:
        what = "inpainting" if added == 5 else "changing images"
        raise PlaceError(
            f"is a model for {what}: its unet/ has in_channels {unet.get('in_channels', 4)}",
            "give the text-to-image model that it was made from",
        )
    if addition == "text_time" and not is_sdxl_wanted:
        raise PlaceError("unet/ is SDXL's, which has two text encoders", "load it with name sdxl")
    if is_sdxl_wanted and addition != "text_time":
        raise PlaceError(
            f"unet/ is not SDXL's: its addition_embed_type is {addition!r}, not 'text_time'",
            "load Stable Diffusion 1.x and 2.x with name stable_diffusion",
        )


def read_mapping(read: Read, name: str) -> dict[str, Any]:
    """A JSON file that contains a mapping.

    Raises: PlaceError with its name otherwise.
    """
    content = read(name)
    if not isinstance(content, dict):
        raise PlaceError(f"{name} holds no mapping", "copy or download it again")
    return content


# --- files on the disk -------------------------------------------------------------------------------------


def list_folder(folder: Path) -> list[str]:
    """Relative names of all files in a folder and its subfolders.

    Raises: PlaceError if it cannot be read.
    """
    try:
        inside = sorted(folder.iterdir())
        deeper = [path for place in inside if place.is_dir() for path in sorted(place.iterdir())]
        return [path.relative_to(folder).as_posix() for path in (*inside, *deeper) if path.is_file()]
    except OSError as error:
        raise PlaceError(f"cannot be read ({error.strerror})", "give a folder that you may read") from None


def read_json(path: Path, name: str) -> Any:
    """The content of a JSON file.

    Raises: PlaceError with `name` if it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PlaceError(f"{name} cannot be read ({reason})", "copy or download it again") from None


def read_header(path: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Type, shape and position of the tensors of a safetensors file by name, and its metadata.

    Raises: PlaceError with `name` if the file is not intact.
    """
    again = "copy it again, or delete it and let it be downloaded again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start == b"version ":
                raise PlaceError(
                    f"{name} is a pointer of Git LFS, not the file itself",
                    "run `git lfs pull` in that folder",
                )
            if size < 8 or (length <= MAX_HEADER and 8 + length > size):
                raise PlaceError(f"{name} is cut short: {size} bytes, which end within its header", again)
            if length > MAX_HEADER:
                raise PlaceError(f"{name} is no safetensors file, or a damaged one", again)
            header = json.loads(file.read(length))
            metadata = dict(header.pop("__metadata__", None) or {})
            end = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except OSError as error:
        raise PlaceError(f"{name} cannot be read ({error.strerror})", again) from None
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError):
        raise PlaceError(f"{name} is no safetensors file, or a damaged one", again) from None
    if size < end:
        raise PlaceError(f"{name} is cut short: {size} of {end} bytes", again)
    if size > end:
        raise PlaceError(f"{name} is damaged: {size} bytes, its header names {end}", again)
    return header, metadata


def single_file_family(header: dict[str, Any], name: str) -> str:
    """The family of a single-file checkpoint, from the names that Stable Diffusion's code gave its tensors.

    Returns: "v1", "v2" or "xl".

    Raises: PlaceError if it is not a text-to-image model of Stable Diffusion.
    """

    def has(*starts: str) -> bool:
        return any(key.startswith(starts) for key in header)

    first = header.get("model.diffusion_model.input_blocks.0.0.weight")
    whole = "give a whole checkpoint: UNet, autoencoder and text encoders in one file"
    if first is None:
        if has("joint_blocks.", "double_blocks.", "model.diffusion_model."):
            raise PlaceError(f"{name} has a transformer in place of the UNet, as SD3 and Flux have", READ)
        raise PlaceError(f"{name} is no checkpoint of Stable Diffusion: it has no UNet by its names", whole)
    if first["shape"][1] != 4:
        raise PlaceError(
            f"{name} is a model for inpainting or changing images: its UNet has in_channels "
            f"{first['shape'][1]}",
            "give the text-to-image model that it was made from",
        )
    if not has("first_stage_model."):
        raise PlaceError(f"{name} has no autoencoder (first_stage_model)", whole)
    if has("conditioner.embedders.1."):
        return "xl"
    if has("conditioner.embedders.0.model."):
        raise PlaceError(f"{name} is SDXL's refiner, which is no prior", "give its base model")
    if has("cond_stage_model.transformer."):
        return "v1"
    if has("cond_stage_model.model."):
        return "v2"
    raise PlaceError(f"{name} has no text encoder (cond_stage_model or conditioner)", whole)
