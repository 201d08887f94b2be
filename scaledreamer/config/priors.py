"""Settings of priors, of where weights are looked for, and of score distillation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from scaledreamer.config.types import KEY, Fraction, Model, Section, check_negative, schedule

LATER_METHODS = ("vsd",)


def refuse_later_methods(value: Any) -> Any:
    if value in LATER_METHODS:
        raise ValueError(f"{KEY}: {value!r} is not in this version; accepted are 'asd', 'sds' and 'csd'.")
    return value


class LatentDiffusionSettings(Section):
    """How the networks of a latent diffusion prior are run; the subsections only differ in their defaults."""

    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of its networks."""
    compile: bool = False
    """Compile UNet and autoencoder with torch.compile: minutes once, then faster steps."""
    cuda_graphs: bool = False
    """Replay the compiled networks as CUDA graphs; needs compile and a GPU."""
    vae_slicing: bool = False
    """Encode one image at a time: less memory, slower."""
    vae_tiling: bool = False
    """Encode an image in overlapping tiles: much less memory, not quite the same latents."""
    memory_gib: Annotated[float | None, Field(gt=0)] = None
    """Process a call's images in chunks whose activations fit into it; None is all at once."""
    drop_text_encoder: bool = False
    """Encode all texts before training, then free the encoder; they must fit into training.text_cache."""

    @model_validator(mode="after")
    def _graphs_are_compiled(self) -> LatentDiffusionSettings:
        if self.cuda_graphs and not self.compile:
            raise ValueError(
                f"{KEY}.cuda_graphs: replays what compile has made; set {KEY}.compile=true too, or "
                f"{KEY}.cuda_graphs=false."
            )
        return self


class TinyworldSettings(LatentDiffusionSettings):
    """Settings of the shipped prior."""


class StableDiffusionSettings(LatentDiffusionSettings):
    """Settings of Stable Diffusion 1.x and 2.x."""

    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    """Precision of its networks; float32 is refused on a GPU because of its memory."""


class SDXLSettings(LatentDiffusionSettings):
    """Settings of Stable Diffusion XL."""

    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    """Precision of its networks; the autoencoder is float32 unless its config.json allows less."""


class WeightSettings(Section):
    """Where the weights of priors and of clip are looked for."""

    offline: bool = False
    """Never contact a hub: use what is on disk, or say which files are missing."""
    mirrors: list[str] = []
    """Addresses of hubs to try if the first cannot be reached (https://...)."""
    variant: Literal["auto", "fp16", "none"] = "auto"
    """Files of a model: auto is those of half precision where there are some and the dtype is no wider."""


class ASDSettings(Section):
    """Settings of asynchronous score distillation."""

    eta: Annotated[float, Field(ge=0, le=100)] = 0.1
    """Growth of the timestep shift with t - t_min."""
    shift_steps: Annotated[int | None, Field(ge=1)] = None
    """Floor the shift to 1/shift_steps; None is continuous."""


class PriorSettings(Section):
    """One of the frozen diffusion priors that judge the rendered images."""

    name: Literal["tinyworld", "stable_diffusion", "sdxl"] = "tinyworld"
    """Kind of prior."""
    model: Model = None
    """Hub id, folder or .safetensors file, or a list of them: the first found; None is the shipped one."""
    revision: str | None = None
    """Branch, tag or commit of hub ids; None is the newest."""
    guidance_scale: Annotated[float, Field(ge=0)] = 7.5
    """Classifier-free guidance, 1 is none."""
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Guidance rescale: 1 restores the unguided prediction's standard deviation (arXiv 2305.08891)."""
    negative_prompt: Annotated[str, AfterValidator(check_negative)] = ""
    """Negative prompt, in place of the unconditional text ""."""
    perp_neg: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Strength of Perp-Neg, guidance away from the neighbouring views (arXiv 2304.04968); 0 is none."""
    method: Annotated[Literal["asd", "sds", "csd"], BeforeValidator(refuse_later_methods)] = "asd"
    """Rule of score distillation."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of its gradient, after pixel clipping."""
    asd: ASDSettings = ASDSettings()
    """Settings of asd."""
    tinyworld: TinyworldSettings = TinyworldSettings()
    """Settings of tinyworld."""
    stable_diffusion: StableDiffusionSettings = StableDiffusionSettings()
    """Settings of stable_diffusion."""
    sdxl: SDXLSettings = SDXLSettings()
    """Settings of sdxl."""

    @property
    def models(self) -> list[str]:
        """`model` as a list; empty for the shipped one."""
        return [self.model] if isinstance(self.model, str) else list(self.model or [])

    @property
    def networks(self) -> LatentDiffusionSettings:
        """The subsection of its name."""
        return getattr(self, self.name)

    @model_validator(mode="after")
    def _has_model(self) -> PriorSettings:
        if self.name != "tinyworld" and not self.model:
            raise ValueError(
                f"{KEY}.model: missing; {self.name} needs a hub id or a folder with the weights."
            )
        return self


class PixelClipSettings(Section):
    """Pixel-wise gradient clipping (PGC) at the prior's input image."""

    mode: Literal["pgc_n", "pgc_v", "pngd", "none"] = "pgc_n"
    """Rule of clipping; none switches off."""
    threshold: Annotated[float, Field(gt=0)] = 0.1
    """c, of one image's gradient; 0.1 belongs to 512 pixels."""
    norm: Literal["l2", "linf"] = "l2"
    """Norm of a pixel over its channels."""


class DistillationSettings(Section):
    """How the prior's predictions become a gradient."""

    t_min: Fraction = schedule([0.5, 0.02])
    """Lowest timestep, a fraction of the prior's schedule."""
    t_max: Fraction = schedule([0.98, 0.5])
    """Highest timestep."""
    sample_latents: bool = False
    """Sample the autoencoder's posterior instead of taking its mean."""
    pixel_clip: PixelClipSettings = PixelClipSettings()
    """Pixel-wise gradient clipping."""
