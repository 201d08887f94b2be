"""A small pipeline as Stable Diffusion's own code would save it: one file, with its names of tensors."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]
RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
OPEN_CLIP = {
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
    "self_attn.out_proj.": "attn.out_proj.",
}


def save_single_file(folder: Path, file: Path) -> Path:
    """Writes the checkpoint of a pipeline of Stable Diffusion 1.x or SDXL with one layer in each block."""
    state = {}
    networks = {name: load_weights(folder / name) for name in ("unet", "vae")}
    for key, value in networks["unet"].items():
        state[f"model.diffusion_model.{unet_key(key)}"] = value
    num_blocks = len({key.split(".")[2] for key in networks["vae"] if key.startswith("decoder.up_blocks.")})
    for key, value in networks["vae"].items():
        is_linear = "mid_block.attentions" in key and value.ndim == 2
        state[f"first_stage_model.{vae_key(key, num_blocks)}"] = (
            value[..., None, None] if is_linear else value
        )
    is_sdxl = (folder / "text_encoder_2").is_dir()
    place = "conditioner.embedders.0.transformer." if is_sdxl else "cond_stage_model.transformer."
    for key, value in load_weights(folder / "text_encoder").items():
        state[f"{place}text_model.{key.removeprefix('text_model.')}"] = value
    if is_sdxl:
        for key, value in open_clip(load_weights(folder / "text_encoder_2")).items():
            state[f"conditioner.embedders.1.model.{key}"] = value
    save_file({key: value.contiguous() for key, value in state.items()}, file, metadata={"format": "pt"})
    return file


def load_weights(folder: Path) -> State:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def unet_key(key: str) -> str:
    fixed = {
        "conv_in.": "input_blocks.0.0.",
        "conv_norm_out.": "out.0.",
        "conv_out.": "out.2.",
        "time_embedding.linear_1.": "time_embed.0.",
        "time_embedding.linear_2.": "time_embed.2.",
        "add_embedding.linear_1.": "label_emb.0.0.",
        "add_embedding.linear_2.": "label_emb.0.2.",
    }
    for mine, theirs in fixed.items():
        if key.startswith(mine):
            return key.replace(mine, theirs)
    if key.startswith("mid_block."):
        _, kind, number, rest = key.split(".", 3)
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{resnet_key(rest) if kind == 'resnets' else rest}"
    _, block, kind, number, rest = key.split(".", 4)
    first = 2 * int(block)
    if key.startswith("down_blocks."):
        if kind == "downsamplers":
            return f"input_blocks.{first + 2}.0.op.{rest.removeprefix('conv.')}"
        place, is_resnet = first + 1 + int(number), kind == "resnets"
        return f"input_blocks.{place}.{0 if is_resnet else 1}.{resnet_key(rest) if is_resnet else rest}"
    if kind == "upsamplers":
        return f"output_blocks.{first + 1}.{2}.{rest}"
    place, is_resnet = first + int(number), kind == "resnets"
    return f"output_blocks.{place}.{0 if is_resnet else 1}.{resnet_key(rest) if is_resnet else rest}"


def resnet_key(key: str) -> str:
    mine = next(name for name in RESNET if key.startswith(name))
    return key.replace(mine, RESNET[mine])


def vae_key(key: str, num_blocks: int) -> str:
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", key)
    if "mid_block.attentions.0" in key:
        key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        for mine, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            key = key.replace(f".{mine}.", f".{theirs}.")
    key = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)

    def up(found: re.Match[str]) -> str:
        kind = "block" if found[2] == "resnets" else "upsample"
        return f"up.{num_blocks - 1 - int(found[1])}.{kind}"

    return re.sub(r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)", up, key)


def open_clip(weights: State) -> State:
    state = {"text_projection": weights["text_projection.weight"].T}
    for key, value in weights.items():
        key = key.removeprefix("text_model.")
        if key.startswith("encoder.layers."):
            number, rest = key.removeprefix("encoder.layers.").split(".", 1)
            if rest.startswith("self_attn.q_proj."):
                kind = rest.rsplit(".", 1)[1]
                names = [f"text_model.encoder.layers.{number}.self_attn.{x}_proj.{kind}" for x in "qkv"]
                all_three = torch.cat([weights[name] for name in names])
                state[f"transformer.resblocks.{number}.attn.in_proj_{kind}"] = all_three
            for mine, theirs in OPEN_CLIP.items():
                if rest.startswith(mine):
                    state[f"transformer.resblocks.{number}.{rest.replace(mine, theirs)}"] = value
        elif key.startswith("final_layer_norm."):
            state[key.replace("final_layer_norm", "ln_final")] = value
        elif key == "embeddings.token_embedding.weight":
            state["token_embedding.weight"] = value
        elif key == "embeddings.position_embedding.weight":
            state["positional_embedding"] = value
    return state
