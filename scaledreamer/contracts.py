"""What the parts of the package know of each other: protocols and plain records, nothing else.

World: z up, front +x, right-handed; scenes live in the cube [-1, 1]^3. Signed distances are positive outside.
Letters: `x_t = alpha(t) x + sigma(t) eps` are noised latents, `t` a fraction in [0, 1] of the prior's own
schedule (a prior alone knows its network's steps) and `x` the clean latents. Noise predictions are always
epsilon, whatever the network predicts. Axes: `batch` prompts, `n` points, `view` cameras of a prompt, `image`
both as one, prompts first, `token` of a text.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from scaledreamer.cameras import Cameras
from scaledreamer.draws import Draws, ImageDraws

# --- generators and their scenes --------------------------------------------------------------------------


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


@runtime_checkable
class SceneBatch(Scene, Protocol):
    """What a generator returns: scenes that can also be had one by one."""

    def row(self, index: int) -> Scene:
        """The scene of one prompt of the batch, as a batch of one."""
        ...


class Generator(nn.Module, abc.ABC):
    """A network from text, and noise where it takes some, to scenes; one forward pass for a batch of prompts.

    What a generator says of itself stands here, in its class. Its constructor's arguments are its settings.

    Attributes:
        has_noise: whether it takes noise z.
        noise_dim: numbers of noise of one prompt.
    """

    has_noise: bool = False
    noise_dim: int = 0

    @abc.abstractmethod
    def forward(self, text: GeneratorText, z: Float[Tensor, "batch noise_dim"] | None = None) -> SceneBatch:
        """The scenes of a batch of prompts; a batch of two equals two batches of one.

        Raises: ValueError for noise that it does not take, or lacks, or of another shape.
        """


# --- rendering --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rendering:
    """Images of a batch of scenes, row 0 on top.

    Attributes:
        rgb: composited over the background, in [0, 1].
        opacity: share of a pixel that the scene covers, in [0, 1].
        depth: mean distance along the unit ray of what covers the pixel; the renderer's farthest depth where
            nothing does. None unless needed.
        normal: mean unit normal in world axes, times opacity. None unless needed.
    """

    rgb: Float[Tensor, "batch view 3 h w"]
    opacity: Float[Tensor, "batch view 1 h w"]
    depth: Float[Tensor, "batch view 1 h w"] | None = None
    normal: Float[Tensor, "batch view 3 h w"] | None = None

    def detach(self) -> Rendering:
        """The same images without gradients."""
        depth, normal = (None if x is None else x.detach() for x in (self.depth, self.normal))
        return Rendering(self.rgb.detach(), self.opacity.detach(), depth, normal)


@runtime_checkable
class Renderer(Protocol):
    """Draws scenes as cameras see them, differentiably; holds settings and no state."""

    def __call__(
        self,
        scene: Scene,
        cameras: Cameras,
        height: int,
        width: int,
        *,
        draws: Draws | None = None,
        background: Float[Tensor, "batch view 3 *hw"] | None = None,
        needs: frozenset[str] = frozenset(),
        chunk_size: int | None = None,
    ) -> Rendering:
        """Images of every scene from each of its cameras.

        Args:
            draws: random numbers for what the renderer samples; None renders without chance.
            background: colours "batch view 3" or images "batch view 3 h w"; None is the scene's own.
            needs: "depth" and "normal", where they are wanted beside rgb and opacity.
            chunk_size: pixels of a prompt that are rendered at once, to bound memory; None is up to it.
        """
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
        self, scene: Scene, cameras: Cameras, size: int, distances: Float[Tensor, "x y z"]
    ) -> Float[Tensor, "view {size} {size} 4"]:
        """Square images of one scene on its own, without gradients: premultiplied rgba in [0, 1].

        Args:
            distances: its signed distances on a lattice over the scene cube, n + 1 points a side, n even, for
                renderers that make use of them; the others call `rendering.turntable.render_frames`.
        """
        ...


# --- priors -----------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class PriorInputs:
    """What a prior's network reads beside noised latents and their time, one row an image.

    Attributes:
        text: encoded texts.
        extra: whatever else this prior's network reads, by the prior's own names, such as camera matrices or
            a depth image as control.
    """

    text: PriorText
    extra: Mapping[str, Float[Tensor, "image ..."]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, index: Int[Tensor, " image"] | slice) -> PriorInputs:
        return PriorInputs(self.text[index], {name: value[index] for name, value in self.extra.items()})

    @staticmethod
    def cat(parts: Sequence[PriorInputs]) -> PriorInputs:
        """Joins inputs of the same prior along their images."""
        extra = {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra}
        return PriorInputs(PriorText.cat([part.text for part in parts]), extra)


@dataclass(frozen=True)
class Conditions:
    """A prior's inputs for each branch of guidance, one row an image.

    Attributes:
        text: with the prompt as this camera sees it.
        uncond: with the empty or the negative prompt.
        negatives: with the texts of neighbouring views, for Perp-Neg; none without it.
        negative_weights: Perp-Neg's `w_i`, subtracted.
    """

    text: PriorInputs
    uncond: PriorInputs
    negatives: tuple[PriorInputs, ...] = ()
    negative_weights: Float[Tensor, "image negative"] | None = None

    def with_extra(self, extra: Mapping[str, Float[Tensor, "image ..."]]) -> Conditions:
        """The same texts with further inputs, alike in every branch."""

        def extended(inputs: PriorInputs) -> PriorInputs:
            return replace(inputs, extra={**inputs.extra, **extra})

        negatives = tuple(extended(inputs) for inputs in self.negatives)
        return Conditions(extended(self.text), extended(self.uncond), negatives, self.negative_weights)


@dataclass(frozen=True)
class Observation:
    """The images of a step as a prior is told of them, before it judges them.

    Attributes:
        prompts: of all images, without view words.
        cameras: of all prompts.
        rendering: without gradients, with what the prior needs of it.
        texts: of every branch, encoded ahead with view words, without further inputs.
    """

    prompts: Sequence[str]
    cameras: Cameras
    rendering: Rendering
    texts: Conditions


@runtime_checkable
class Prior(Protocol):
    """A frozen text-to-image diffusion model as distillation sees it.

    Attributes:
        image_size: edge in pixels of the images that it judges.
        num_views: views of one object that it judges together, with one prompt and one t; 1 for ordinary
            image models. No division of a call into parts cuts such a group.
        needs: what it needs of a rendering beside rgb to be conditioned on, of "depth" and "normal".
        latent_shape: (c, h, w) of its latents.
    """

    image_size: int
    num_views: int
    needs: frozenset[str]
    latent_shape: tuple[int, int, int]

    def encode_text(self, prompts: list[str]) -> PriorText:
        """Encodes texts as the network reads them; "" is the unconditional one."""
        ...

    def condition(self, observation: Observation) -> Conditions:
        """Inputs of every branch for rendered images: their texts, and what else the prior reads."""
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
        inputs: PriorInputs,
    ) -> Float[Tensor, "image c h_latent w_latent"]:
        """Predicted epsilon of noised latents; nothing is differentiated through it."""
        ...

    def why_not_finite(self) -> str | None:
        """What in the prior itself was not finite since the last call, and what to do; None if nothing was.
        Asked only after a step was skipped."""
        ...


# --- distillation -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What a method made of a prior's judgement of some images.

    Attributes:
        gradient: `g_z`, at the clean latents of each image; unreduced, not clipped.
        latents: the clean latents.
        conditions: the prior's inputs.
        statistics: one number for each image by name, for the metrics; "timestep" is t.
    """

    gradient: Float[Tensor, "image c h w"]
    latents: Float[Tensor, "image c h w"]
    conditions: Conditions
    statistics: Mapping[str, Float[Tensor, " image"]]


@runtime_checkable
class Method(Protocol):
    """A rule of score distillation; one object for each prior of a run, which may hold a student."""

    def times(self, draws: ImageDraws, step: int) -> dict[str, Float[Tensor, " image"]]:
        """The times at which the images of a step are judged: "timestep", and what else the method draws."""
        ...

    def gradient(
        self,
        prior: Prior,
        latents: Float[Tensor, "image c h w"],
        conditions: Conditions,
        draws: ImageDraws,
        step: int,
    ) -> Estimate:
        """The gradient at clean latents. Nothing is differentiated through the prior.

        Args:
            latents: of this rank's images in one accumulation step, without gradients.
            step: from 0.
        """
        ...

    def update(self, estimates: Sequence[Estimate], step: int) -> Mapping[str, Tensor]:
        """Trains what the method itself trains, on a step's estimates; called after the generator's update,
        and not where that was skipped. Returns metrics by name."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resumed run needs of the method, whole on every rank; empty where it holds no state."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state_dict` gave."""
        ...
