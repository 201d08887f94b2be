"""The contract between score distillation and any frozen 2D diffusion prior.

Letters: `x_t = alpha(t) x + sigma(t) eps`, with `t` a fraction in [0, 1] of the prior's own schedule (an
adapter alone knows its network's steps), `x` the clean latents. Noise predictions are always epsilon,
whatever the network predicts. Axes: `image` any number of images, `token` of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TextEmbedding:
    """What a prior's network is conditioned on, one row a text.

    Attributes:
        tokens: one vector per token, padding included.
        pooled: one vector per text, for networks that take one beside the tokens.
    """

    tokens: Float[Tensor, "text token d_token"]
    pooled: Float[Tensor, "text d_pooled"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Int[Tensor, " image"] | slice) -> TextEmbedding:
        return TextEmbedding(self.tokens[index], None if self.pooled is None else self.pooled[index])

    def lerp(self, other: TextEmbedding, share: Float[Tensor, " text"]) -> TextEmbedding:
        """Row by row between this embedding (share 0) and another one (share 1)."""
        tokens = torch.lerp(self.tokens, other.tokens, share.to(self.tokens.dtype)[:, None, None])
        if self.pooled is None or other.pooled is None:
            return TextEmbedding(tokens)
        return TextEmbedding(
            tokens, torch.lerp(self.pooled, other.pooled, share.to(self.pooled.dtype)[:, None])
        )

    @staticmethod
    def cat(parts: Sequence[TextEmbedding]) -> TextEmbedding:
        """Joins embeddings of the same prior along their texts."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        assert len(pooled) in (0, len(parts))
        return TextEmbedding(
            torch.cat([part.tokens for part in parts]), torch.cat(pooled) if pooled else None
        )


class DiffusionPrior(Protocol):
    """A frozen text-to-image diffusion model as distillation sees it.

    Attributes:
        image_size: edge in pixels of the images that it judges.
        num_views: views of one object that it judges jointly; 1 for ordinary image models.
        latent_shape: (c, h, w) of its latents.
    """

    image_size: int
    num_views: int
    latent_shape: tuple[int, int, int]

    def encode_text(self, prompts: list[str]) -> TextEmbedding:
        """Encodes texts as the network reads them; "" is the unconditional one."""
        ...

    def encode_image(
        self,
        images: Float[Tensor, "image 3 h w"],
        noise: Float[Tensor, "image c h_latent w_latent"] | None = None,
    ) -> Float[Tensor, "image c h_latent w_latent"]:
        """Scaled latents of images in [0, 1], differentiable: the posterior's mean, or a sample with the
        given noise."""
        ...

    def alpha(self, t: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Factor of the clean latents at time t."""
        ...

    def sigma(self, t: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Factor of the noise at time t."""
        ...

    def predict_noise(
        self,
        x_t: Float[Tensor, "image c h_latent w_latent"],
        t: Float[Tensor, " image"],
        conditioning: TextEmbedding,
    ) -> Float[Tensor, "image c h_latent w_latent"]:
        """Predicted epsilon of noised latents; nothing is differentiated through it."""
        ...

    def why_not_finite(self) -> str | None:
        """What in the prior itself was not finite since the last call, and what to do; None if nothing was.
        Asked only after a step was skipped."""
        ...
