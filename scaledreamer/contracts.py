"""What the parts of the package know of each other: protocols and plain records, nothing else.

World: z up, front +x, right-handed; scenes live in the cube [-1, 1]^3. Signed distances are positive outside.
Letters: `x_t = alpha(t) x + sigma(t) eps` are noised latents, `x` clean latents, and `t` is a fraction in
[0, 1] of the prior's schedule (only the prior knows its network's steps). Noise predictions are always
epsilon, whatever the network predicts. Axes: `batch` prompts, `n` points, `view` cameras of a prompt, `image`
both flattened, prompts first, `token` tokens of a text.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scaledreamer.cameras import Cameras
from scaledreamer.draws import Draws, ImageDraws
from scaledreamer.texts import GeneratorText, PriorText

# --- generators and their scenes --------------------------------------------------------------------------


@runtime_checkable
class Scene(Protocol):
    """A batch of scenes, as used by renderers, meshing and regularizers.

    If all prompts share their points, `points` may be expanded along `batch` (stride 0). A scene may then
    share work between prompts, but has to return the same values as for a copy.
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
        """Rgb in [0, 1] of the background in these unit directions."""
        ...


@runtime_checkable
class SceneBatch(Scene, Protocol):
    """The output of a generator: a batch of scenes with access to each."""

    def row(self, index: int) -> Scene:
        """The scene of one prompt of the batch, as a batch of one."""
        ...


class Generator(nn.Module, abc.ABC):
    """A network from text, and optionally noise, to scenes, in one forward pass for a batch of prompts.

    Everything specific to a generator is defined in its class. Its settings are its constructor's arguments.

    Attributes:
        has_noise: whether it takes noise z.
        noise_dim: length of the noise of one prompt.
        repeats_on_gpu: whether torch can repeat its gradients on a GPU bit for bit; it cannot repeat those of
            `grid_sample` and of trilinear interpolation, see `torch.use_deterministic_algorithms`.
        makes_features_first: whether most of a forward pass comes before the first query of the scene, which
            then has `features`: a dataclass with what was made.
        config: its constructor's arguments as an export keeps them: all but what depends on the machine.
    """

    has_noise: bool = False
    noise_dim: int = 0
    repeats_on_gpu: ClassVar[bool] = True
    makes_features_first: ClassVar[bool] = False
    config: dict[str, Any]

    @abc.abstractmethod
    def forward(self, text: GeneratorText, z: Float[Tensor, "batch noise_dim"] | None = None) -> SceneBatch:
        """The scenes of a batch of prompts; a batch of two equals two batches of one.

        Raises: ValueError for noise that it does not take, missing noise, or noise of another shape.
        """

    @classmethod
    def text_settings(cls, condition_dim: int, token_dim: int) -> dict[str, int]:
        """Constructor arguments that the text conditioner decides; here of one that reads the pooled vector.

        Args:
            condition_dim: length of the conditioner's pooled vector.
            token_dim: length of its token vectors.
        """
        del token_dim
        return {"condition_dim": condition_dim}

    @classmethod
    def backend_line(cls, settings: dict[str, Any], device: torch.device) -> str | None:
        """One line on what computes its slowest part on a device; None where there is no choice.

        Args:
            settings: its constructor's.

        Raises: ValueError, beginning with the setting's name, if its choice does not work there.
        """
        del settings, device
        return None

    @classmethod
    def small_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings with which a query costs the same and everything before it next to nothing.

        Estimates of memory and time count a few passes of such a generator.
        """
        return dict(settings)

    def prepare_export(self) -> None:
        """Computes what an exported generator needs beside its trained weights."""


# --- rendering --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rendering:
    """Images of a batch of scenes, row 0 at the top.

    Attributes:
        rgb: composited over the background, in [0, 1].
        opacity: in [0, 1].
        depth: mean distance along the unit ray; the renderer's far depth for empty pixels. None unless
            needed.
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
    """Renders scenes differentiably; holds settings and no state."""

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
            draws: random numbers for sampling; None renders deterministically.
            background: colours "batch view 3" or images "batch view 3 h w"; None is the scene's own.
            needs: "depth" and "normal" if required in addition to rgb and opacity.
            chunk_size: pixels of a prompt that are rendered at once, to bound memory; None lets it decide.
        """
        ...

    @property
    def num_samples(self) -> int:
        """Approximate number of points per ray at which the scene is queried with gradients."""
        ...

    def settings(self) -> dict[str, Any]:
        """All settings by name, as JSON values."""
        ...

    def for_display(self) -> Renderer:
        """The same renderer for display, with more pixels than in a training step."""
        ...

    def for_scores(self) -> Renderer:
        """The same renderer for scores: sharp enough for small parts, from any camera."""
        ...

    def surface_offsets(self) -> tuple[float, ...]:
        """Distances from a surface, positive outside, over which the colour seen by a camera is averaged."""
        ...

    def frames(
        self, scene: Scene, cameras: Cameras, size: int, distances: Float[Tensor, "x y z"]
    ) -> Float[Tensor, "view {size} {size} 4"]:
        """Square images of one scene without background and gradients: premultiplied rgba in [0, 1].

        Args:
            distances: its signed distances on a lattice over the scene cube, n + 1 points per side, n even,
                for renderers that can use them; others call `rendering.turntable.render_frames`.
        """
        ...


# --- priors -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PriorInputs:
    """Inputs of a prior's network besides noised latents and their time, one row per image.

    Attributes:
        text: encoded texts.
        extra: further inputs under names that the prior chooses, such as camera matrices or a depth image as
            control.
    """

    text: PriorText
    extra: Mapping[str, Float[Tensor, "image ..."]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, index: Int[Tensor, " image"] | slice) -> PriorInputs:
        return PriorInputs(self.text[index], {name: value[index] for name, value in self.extra.items()})

    @staticmethod
    def cat(parts: Sequence[PriorInputs]) -> PriorInputs:
        """Concatenates inputs of the same prior along the images."""
        extra = {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra}
        return PriorInputs(PriorText.cat([part.text for part in parts]), extra)


@dataclass(frozen=True)
class Conditions:
    """A prior's inputs for each branch of guidance, one row per image.

    Attributes:
        text: inputs with the prompt and the camera's view word.
        uncond: inputs with the empty or the negative prompt.
        negatives: inputs with the texts of neighbouring views, for Perp-Neg; otherwise empty.
        negative_weights: Perp-Neg's `w_i`, which are subtracted.
    """

    text: PriorInputs
    uncond: PriorInputs
    negatives: tuple[PriorInputs, ...] = ()
    negative_weights: Float[Tensor, "image negative"] | None = None

    def with_extra(self, extra: Mapping[str, Float[Tensor, "image ..."]]) -> Conditions:
        """The same texts with further inputs, the same ones in every branch."""

        def extended(inputs: PriorInputs) -> PriorInputs:
            return replace(inputs, extra={**inputs.extra, **extra})

        negatives = tuple(extended(inputs) for inputs in self.negatives)
        return Conditions(extended(self.text), extended(self.uncond), negatives, self.negative_weights)


@dataclass(frozen=True)
class Observation:
    """What a prior may be conditioned on: the prompts, cameras and rendering of a step.

    Attributes:
        prompts: of all images, without view words.
        cameras: of all prompts.
        rendering: without gradients, with what the prior needs.
        texts: encoded in advance for every branch, with view words, without further inputs.
    """

    prompts: Sequence[str]
    cameras: Cameras
    rendering: Rendering
    texts: Conditions


@runtime_checkable
class Prior(Protocol):
    """A frozen text-to-image diffusion model as distillation sees it.

    Attributes:
        image_size: size in pixels of its input images.
        num_views: views of one object that it processes together, with one prompt and one t; 1 for ordinary
            image models. A call is never split within such a group.
        needs: which of "depth" and "normal" it needs in a rendering besides rgb.
        latent_shape: (c, h, w) of its latents.
    """

    image_size: int
    num_views: int
    needs: frozenset[str]
    latent_shape: tuple[int, int, int]

    def encode_text(self, prompts: list[str]) -> PriorText:
        """Encodes texts for the network; "" is the unconditional text."""
        ...

    def condition(self, observation: Observation) -> Conditions:
        """Inputs of every branch for the rendered images: their texts, and whatever else the prior reads."""
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
        Called only after a skipped step."""
        ...


# --- distillation -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A method's gradient for some images.

    Attributes:
        gradient: `g_z`, at the clean latents of each image; unreduced, not clipped.
        latents: the clean latents.
        conditions: the prior's inputs.
        statistics: one number per image by name, for the metrics; "timestep" is t.
    """

    gradient: Float[Tensor, "image c h w"]
    latents: Float[Tensor, "image c h w"]
    conditions: Conditions
    statistics: Mapping[str, Float[Tensor, " image"]]


@runtime_checkable
class Method(Protocol):
    """A method of score distillation; one object per prior of a run, which may own a student network."""

    def times(self, draws: ImageDraws, step: int) -> dict[str, Float[Tensor, " image"]]:
        """The times at which the prior is evaluated for a step's images: "timestep", and possibly others."""
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
        """Trains the method's own networks on a step's estimates; called after the generator's update, unless
        that was skipped. Returns metrics by name."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The state that a resumed run needs, complete on every rank; empty if there is none."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        ...
