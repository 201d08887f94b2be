"""What the parts of the package know of each other: protocols and plain records, nothing else.

World: z up, front +x, right-handed; scenes live in the cube [-1, 1]^3. Signed distances are positive outside.
Letters: `x_t = alpha(t) x + sigma(t) eps` are noised latents, `t` a fraction in [0, 1] of the prior's own
schedule (a prior alone knows its network's steps) and `x` the clean latents. Noise predictions are always
epsilon, whatever the network predicts. Axes: `batch` prompts, `n` points, `view` cameras of a prompt, `image`
both as one, prompts first, `token` of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class GeneratorText(NamedTuple):
    """What a text conditioner hands to a generator.

    Attributes:
        pooled: one vector per prompt.
        tokens: one vector per token.
        mask: True where a token is text, False where it is padding.
    """

    pooled: Float[Tensor, "batch d"]
    tokens: Float[Tensor, "batch token d_token"]
    mask: Bool[Tensor, "batch token"]


@runtime_checkable
class Scene(Protocol):
    """A batch of scenes, as renderers, meshing and regularizers see them.

    `points` may be expanded along `batch` (stride 0) where all prompts share them; a scene may use that to
    work once for all prompts, and has to return the same values as for a copy.
    """

    def sdf(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n"]:
        """Signed distance, > 0 outside."""
        ...

    def query(
        self, points: Float[Tensor, "batch n 3"]
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n feature"]]:
        """Signed distance, and features of which the first three are rgb in [0, 1]."""
        ...

    def background(self, directions: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n 3"]:
        """Rgb in [0, 1] of what a ray of this unit direction sees behind the scene."""
        ...


class SceneBatch(Scene, Protocol):
    """What a generator returns: scenes that can also be had one by one."""

    def row(self, index: int) -> Scene:
        """The scene of one prompt of the batch, as a batch of one."""
        ...


@dataclass
class Rendering:
    """Images of a batch of scenes, row 0 on top.

    Attributes:
        rgb: composited over the background, in [0, 1].
        opacity: share of a pixel that the scene covers, in [0, 1].
        depth: mean distance along the unit ray of what covers the pixel; the renderer's `far` where nothing
            does.
        normal: mean unit normal in world axes, times opacity. None unless asked for.
    """

    rgb: Float[Tensor, "batch view 3 h w"]
    opacity: Float[Tensor, "batch view 1 h w"]
    depth: Float[Tensor, "batch view 1 h w"]
    normal: Float[Tensor, "batch view 3 h w"] | None = None


@runtime_checkable
class Renderer(Protocol):
    """Draws scenes as cameras see them, differentiably; holds settings and no state."""

    def __call__(
        self,
        scene: Scene,
        cameras: Any,
        height: int,
        width: int,
        *,
        jitter: Float[Tensor, "batch view {height} {width}"] | None = None,
        background: Float[Tensor, "batch view 3 *hw"] | None = None,
        with_normal: bool = False,
        chunk_size: int | None = None,
    ) -> Rendering:
        """Images of every scene from each of its cameras."""
        ...

    @property
    def num_samples(self) -> int:
        """Points at which a ray queries a scene with gradients, about."""
        ...

    def settings(self) -> dict[str, Any]:
        """All settings by name, as JSON holds them."""
        ...

    def for_display(self) -> Renderer:
        """The same renderer for pictures, of more pixels than a training step renders."""
        ...

    def for_scores(self) -> Renderer:
        """The same renderer for scores: images sharp enough to judge small parts, from any camera."""
        ...

    def surface_offsets(self) -> tuple[float, ...]:
        """Distances from a surface, positive outside, whose mean colour is what a camera facing it sees."""
        ...

    def frames(
        self, scene: Scene, cameras: Any, size: int, distances: Float[Tensor, "x y z"]
    ) -> Float[Tensor, "view {size} {size} 4"]:
        """Square images of one scene on its own, without gradients: premultiplied rgba in [0, 1].

        Args:
            distances: its signed distances on a lattice over the scene cube, n + 1 points a side, n even, for
                renderers that make use of them; the others call `rendering.turntable.render_frames`.
        """
        ...


@dataclass(frozen=True)
class PriorText:
    """What a prior's network is conditioned on, one row a text.

    Attributes:
        tokens: one vector per token, padding included.
        pooled: one vector per text, for networks that take one beside the tokens.
    """

    tokens: Float[Tensor, "text token d_token"]
    pooled: Float[Tensor, "text d_pooled"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Int[Tensor, " image"] | slice) -> PriorText:
        return PriorText(self.tokens[index], None if self.pooled is None else self.pooled[index])

    def lerp(self, other: PriorText, share: Float[Tensor, " text"]) -> PriorText:
        """Row by row between this embedding (share 0) and another one (share 1)."""
        tokens = torch.lerp(self.tokens, other.tokens, share.to(self.tokens.dtype)[:, None, None])
        if self.pooled is None or other.pooled is None:
            return PriorText(tokens)
        return PriorText(tokens, torch.lerp(self.pooled, other.pooled, share.to(self.pooled.dtype)[:, None]))

    @staticmethod
    def cat(parts: Sequence[PriorText]) -> PriorText:
        """Joins embeddings of the same prior along their texts."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        assert len(pooled) in (0, len(parts))
        return PriorText(torch.cat([part.tokens for part in parts]), torch.cat(pooled) if pooled else None)


class Prior(Protocol):
    """A frozen text-to-image diffusion model as distillation sees it.

    Attributes:
        image_size: edge in pixels of the images that it judges.
        num_views: views of one object that it judges jointly; 1 for ordinary image models.
        latent_shape: (c, h, w) of its latents.
    """

    image_size: int
    num_views: int
    latent_shape: tuple[int, int, int]

    def encode_text(self, prompts: list[str]) -> PriorText:
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
        conditioning: PriorText,
    ) -> Float[Tensor, "image c h_latent w_latent"]:
        """Predicted epsilon of noised latents; nothing is differentiated through it."""
        ...

    def why_not_finite(self) -> str | None:
        """What in the prior itself was not finite since the last call, and what to do; None if nothing was.
        Asked only after a step was skipped."""
        ...
