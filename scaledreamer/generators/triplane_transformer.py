"""Triplane-Transformer (ScaleDreamer section 4.2, after LRM, Hong et al. 2024): text tokens to three planes.

    learned positions            3 x R^2 tokens, the same for every prompt
    transformer, each layer      attention to all text tokens, attention among the plane tokens, MLP
    deconvolution                3 x R^2 tokens to 3 planes of (2R)^2 pixels
    decoder                      a point's features on the three planes to distance and colour

Only the conditioner's `tokens` and `mask` are used. There is no dropout and no noise.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scaledreamer.contracts import Generator, GeneratorText
from scaledreamer.fields.planes import FeaturePlanes
from scaledreamer.generators.decoded import DecodedScene, Decoder, check_settings

_MLP_RATIO = 4
"""Width of the hidden layer of a transformer's MLP, as a multiple of the token width."""


class TriplaneTransformer(Generator):
    """Text to scene: a transformer makes three planes of features, which two shared MLPs decode.

    Starts as the same grey sphere for every prompt (up to a hundredth of its radius). Noise z is not used.
    The published sizes are width 768, num_layers 12, num_heads 16, token_resolution 32, plane_features 32,
    mlp_width 64 and mlp_depth 2.

    Args:
        token_dim: length of the conditioner's token vectors.
        width: width of a plane token.
        num_layers, num_heads: of the transformer; `width` is a multiple of `num_heads`.
        token_resolution: R, tokens per edge of a plane; planes have 2R pixels per edge.
        plane_features: features per pixel of a plane.
        mlp_width, mlp_depth: hidden layers of the two MLPs that decode points.
        sphere_radius: radius of the initial surface.
        background: "learned", a network of the direction that all prompts share, or "none", white.
        coordinates: the two MLPs also read the point's coordinates, so that prompts can differ in shape
            before the planes do (oracle fits of 90 steps: 15.4 dB, without 14.8). Official weights do not use
            them.
        mask_padding: do not attend to padding tokens. Official weights were trained without this mask.
        gradient_checkpointing: keep only the layers' inputs for the backward pass and recompute the rest: a
            third more time, a fraction of the memory.
        dtype: with "bfloat16" the transformer's matrix products run in bfloat16; parameters, residual sums,
            norms and planes stay in float32.

    Raises: ValueError naming the argument that is out of range.
    """

    repeats_on_gpu = False
    makes_features_first = True

    def __init__(
        self,
        *,
        token_dim: int,
        width: int = 160,
        num_layers: int = 4,
        num_heads: int = 5,
        token_resolution: int = 16,
        plane_features: int = 16,
        mlp_width: int = 32,
        mlp_depth: int = 1,
        sphere_radius: float = 0.5,
        background: Literal["learned", "none"] = "learned",
        coordinates: bool = True,
        mask_padding: bool = True,
        gradient_checkpointing: bool = False,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        super().__init__()
        sizes = {
            "token_dim": token_dim,
            "width": width,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "token_resolution": token_resolution,
            "plane_features": plane_features,
            "mlp_width": mlp_width,
            "mlp_depth": mlp_depth,
        }
        self.config: dict[str, Any] = sizes | {
            "sphere_radius": sphere_radius,
            "background": background,
            "coordinates": coordinates,
            "mask_padding": mask_padding,
            "gradient_checkpointing": gradient_checkpointing,
            "dtype": dtype,
        }
        check_settings(self.config, sizes)
        if width % num_heads:
            raise ValueError(
                f"width is {width} and num_heads {num_heads}: heads share the width evenly, so give a "
                f"multiple of {num_heads}, for example {num_heads * max(1, round(width / num_heads))}."
            )
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}: choose 'float32' or 'bfloat16'.")

        self.positions = nn.Parameter(torch.randn(3 * token_resolution**2, width))
        self.layers = nn.ModuleList(
            _Layer(width, token_dim, num_heads, residual_scale=(3 * num_layers) ** -0.5)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.deconvolution = nn.ConvTranspose2d(width, plane_features, 2, stride=2, bias=False)
        nn.init.normal_(self.deconvolution.weight, 0, width**-0.5)  # features of standard deviation 1
        num_features = 3 * plane_features + (3 if coordinates else 0)
        self.decoder = Decoder(num_features, mlp_width, mlp_depth, sphere_radius, background)

    def forward(self, text: GeneratorText, z: Tensor | None = None) -> DecodedScene:
        """The scenes of a batch of prompts.

        Raises: ValueError for noise, which this generator does not take, and for tokens of another length.
        """
        if z is not None:
            raise ValueError("This generator takes no noise z (has_noise is False): leave z out.")
        expected, got = self.config["token_dim"], text.tokens.shape[2]
        if expected != got:
            raise ValueError(
                f"The text's tokens have {got} numbers, the generator was built for {expected} (token_dim)."
            )
        planes = FeaturePlanes(self.planes(text), self.config["coordinates"])
        return DecodedScene(planes, self.decoder)

    def planes(self, text: GeneratorText) -> Float[Tensor, "batch 3 c h w"]:
        """Features of the planes' pixels, in the dtype of the parameters."""
        tokens = text.tokens.to(self.positions.dtype)
        mask = text.mask if self.config["mask_padding"] else torch.ones_like(text.mask)
        is_checkpointed = self.config["gradient_checkpointing"] and torch.is_grad_enabled()
        is_half = self.config["dtype"] == "bfloat16"
        x = self.positions.expand(len(tokens), -1, -1)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=is_half):
            for layer in self.layers:
                if is_checkpointed:
                    x = checkpoint(layer, x, tokens, mask, use_reentrant=False, preserve_rng_state=False)
                else:
                    x = layer(x, tokens, mask)
        size = self.config["token_resolution"]
        with torch.autocast(x.device.type, enabled=False):
            x = self.norm(x).unflatten(1, (3, size, size)).movedim(-1, 2)
            return self.deconvolution(x.flatten(0, 1)).unflatten(0, (-1, 3))

    @classmethod
    def text_settings(cls, condition_dim: int, token_dim: int) -> dict[str, int]:
        """See `Generator.text_settings`: it reads the tokens."""
        del condition_dim
        return {"token_dim": token_dim}

    @classmethod
    def small_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """See `Generator.small_settings`."""
        small = {"width": 8, "num_heads": 1, "num_layers": 1, "token_resolution": 4}
        return {**settings, **small, "gradient_checkpointing": False, "dtype": "float32"}


class _Layer(nn.Module):
    """Cross-attention to the text, self-attention of the plane tokens, MLP; residual, with pre-norm.

    Args:
        residual_scale: scale of the initial weights of the three residual branches' last layers.
    """

    def __init__(self, width: int, token_dim: int, num_heads: int, residual_scale: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.cross_norm, self.self_norm, self.mlp_norm = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.cross_query = _linear(width, width, bias=False)
        self.cross_key_value = _linear(token_dim, 2 * width, bias=False)
        self.cross_out = _linear(width, width, scale=residual_scale)
        self.self_query_key_value = _linear(width, 3 * width, bias=False)
        self.self_out = _linear(width, width, scale=residual_scale)
        self.mlp_in = _linear(width, _MLP_RATIO * width)
        self.mlp_out = _linear(_MLP_RATIO * width, width, scale=residual_scale)

    def forward(
        self,
        x: Float[Tensor, "batch plane_token width"],
        tokens: Float[Tensor, "batch token d_token"],
        mask: Bool[Tensor, "batch token"],
    ) -> Float[Tensor, "batch plane_token width"]:
        key, value = self.cross_key_value(tokens).chunk(2, -1)
        x = x + self.cross_out(self._attend(self.cross_query(self.cross_norm(x)), key, value, mask))
        query, key, value = self.self_query_key_value(self.self_norm(x)).chunk(3, -1)
        x = x + self.self_out(self._attend(query, key, value))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Float[Tensor, "batch plane_token width"]:
        """Multi-head attention. Zero if there is nothing to attend to."""
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, value))
        attended = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None])
        return attended.transpose(1, 2).flatten(2)


def _linear(inputs: int, outputs: int, *, bias: bool = True, scale: float = 1.0) -> nn.Linear:
    """Initial outputs have `scale` times the standard deviation of the inputs."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, 0, scale / math.sqrt(inputs))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
