"""Settings of generators, one class an architecture."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from scaledreamer.config.types import KEY, ExpandHome, MayChange, Section


class ArchitectureSettings(Section):
    """Base of the settings of one architecture.

    Attributes:
        holds_one_scene: whether it is one scene, whatever the prompt says, and so is trained on one prompt.
    """

    holds_one_scene: ClassVar[bool] = False


class HyperINGPSettings(ArchitectureSettings):
    """A hash grid shared by all prompts, and a hyper-network for each prompt's MLPs (after ATT3D)."""

    num_levels: Annotated[int, Field(ge=1, le=32)] = 8
    """Levels of the hash grid."""
    features_per_level: Annotated[int, Field(ge=1, le=16)] = 4
    """Features of one level."""
    log2_table_size: Annotated[int, Field(ge=4, le=24)] = 14
    """log2 of the largest number of entries of a level."""
    base_resolution: Annotated[int, Field(ge=2, le=512)] = 8
    """Grid points a side of the coarsest level."""
    growth: Annotated[float, Field(gt=1, le=4)] = 1.5
    """Resolution of a level relative to the one before."""
    hyper_width: Annotated[int, Field(ge=1, le=16384)] = 128
    """Width of the hyper-network."""
    hyper_depth: Annotated[int, Field(ge=1, le=8)] = 1
    """Hidden layers of the hyper-network."""
    whitening: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Whitening of the text features over the corpus: 1 gives all directions the same variance."""
    mlp_width: Annotated[int, Field(ge=1, le=4096)] = 32
    """Width of each prompt's MLPs."""
    mlp_depth: Annotated[int, Field(ge=1, le=8)] = 1
    """Hidden layers of each prompt's MLPs."""
    sphere_radius: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Radius of the sphere that every scene starts as."""
    background: Literal["learned", "none"] = "learned"
    """What rays see behind the scene."""
    grid_backend: Annotated[Literal["auto", "torch", "triton", "tinycudann"], MayChange()] = "auto"
    """Backend of the hash grid; auto is triton on a GPU if it is installed, else torch."""


class Conv3DNetSettings(ArchitectureSettings):
    """Noise and text to a volume of features by style-modulated 3D convolutions (after CC3D)."""

    z_dim: Annotated[int, Field(ge=1, le=4096)] = 32
    """Numbers of noise that the mapping network reads."""
    style_dim: Annotated[int, Field(ge=1, le=4096)] = 128
    """Length of the styles that the mapping network makes of noise and text."""
    mapping_depth: Annotated[int, Field(ge=1, le=8)] = 2
    """Layers of the mapping network."""
    resolution: Literal[8, 16, 32, 64, 128, 256] = 32
    """Lattice points a side of the volume."""
    num_features: Annotated[int, Field(ge=1, le=256)] = 16
    """Features of a point of the volume."""
    max_channels: Annotated[int, Field(ge=1, le=2048)] = 160
    """Largest number of channels of a convolution."""
    channel_base: Annotated[int, Field(ge=8, le=65536)] = 768
    """Divided by r: channels of a convolution at resolution r, up to max_channels; at least `resolution`."""
    position_bias_resolution: Annotated[int, Field(ge=4, le=256)] = 16
    """Up to this resolution a learned field is added to the channels."""
    mlp_width: Annotated[int, Field(ge=1, le=4096)] = 32
    """Width of the MLPs, which all prompts share."""
    mlp_depth: Annotated[int, Field(ge=1, le=8)] = 1
    """Hidden layers of the MLPs."""
    sphere_radius: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Radius of the sphere that every scene starts as."""
    background: Literal["learned", "none"] = "learned"
    """What rays see behind the scene; learned is of the direction alone."""
    gradient_checkpointing: Annotated[bool, MayChange()] = False
    """Compute the convolutions again in the backward pass: less memory, a third more of their work."""


class TriplaneTransformerSettings(ArchitectureSettings):
    """A transformer from text tokens to three planes of features, which two MLPs decode (after LRM)."""

    width: Annotated[int, Field(ge=1, le=8192)] = 160
    """Width of a plane token, a multiple of num_heads."""
    num_layers: Annotated[int, Field(ge=1, le=96)] = 4
    """Layers of the transformer."""
    num_heads: Annotated[int, Field(ge=1, le=128)] = 5
    """Heads of each attention."""
    token_resolution: Annotated[int, Field(ge=1, le=128)] = 16
    """Tokens a side of a plane; planes have twice as many pixels a side."""
    plane_features: Annotated[int, Field(ge=1, le=1024)] = 16
    """Features of a pixel of one plane."""
    mlp_width: Annotated[int, Field(ge=1, le=4096)] = 32
    """Width of the two MLPs that decode points."""
    mlp_depth: Annotated[int, Field(ge=1, le=8)] = 1
    """Hidden layers of the two MLPs that decode points."""
    sphere_radius: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Radius of the sphere that every scene starts as."""
    background: Literal["learned", "none"] = "learned"
    """What rays see behind the scene; learned is the same for all prompts."""
    coordinates: bool = True
    """Feed the two MLPs the point's coordinates too; ScaleDreamer's own read only the planes' features."""
    mask_padding: bool = True
    """Mask text tokens that are padding; ScaleDreamer's own weights were trained without the mask."""
    gradient_checkpointing: Annotated[bool, MayChange()] = False
    """Compute layers again in the backward pass instead of keeping them: slower, much less memory."""
    dtype: Annotated[Literal["float32", "bfloat16"], MayChange(on_resume=False)] = "float32"
    """Precision of the transformer's products; planes and what follows are float32."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> TriplaneTransformerSettings:
        if self.width % self.num_heads:
            raise ValueError(
                f"{KEY}.width: got {self.width}, which {self.num_heads} heads (num_heads) cannot share "
                f"evenly; give a multiple of {self.num_heads}."
            )
        return self


class FieldSettings(ArchitectureSettings):
    """One scene for one prompt: a hash grid and two MLPs, without text."""

    holds_one_scene = True

    num_levels: Annotated[int, Field(ge=1, le=32)] = 8
    """Levels of the hash grid."""
    features_per_level: Annotated[int, Field(ge=1, le=16)] = 4
    """Features of one level."""
    log2_table_size: Annotated[int, Field(ge=4, le=24)] = 15
    """log2 of the largest number of entries of a level."""
    base_resolution: Annotated[int, Field(ge=2, le=512)] = 8
    """Grid points a side of the coarsest level."""
    growth: Annotated[float, Field(gt=1, le=4)] = 1.4
    """Resolution of a level relative to the one before."""
    mlp_width: Annotated[int, Field(ge=1, le=4096)] = 32
    """Width of the distance's and the colour's MLP."""
    mlp_depth: Annotated[int, Field(ge=1, le=8)] = 1
    """Hidden layers of both MLPs."""
    sphere_radius: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Radius of the sphere that the scene starts as."""
    background: Literal["learned", "none"] = "learned"
    """What rays see behind the scene."""
    color_jitter: Annotated[float, Field(ge=0, le=1), MayChange(on_resume=False)] = 0.0
    """While training, query the colour field at jittered points: standard deviation in scene units."""
    grid_backend: Annotated[Literal["auto", "torch", "triton", "tinycudann"], MayChange()] = "auto"
    """Backend of the hash grid; auto is triton on a GPU if it is installed, else torch."""


class GeneratorSettings(Section):
    """The network that is trained."""

    name: Literal["hyper_ingp", "conv3d_net", "triplane_transformer", "field"] = "hyper_ingp"
    """Architecture."""
    start: Annotated[str | None, ExpandHome] = None
    """Run, export or hub id of a generator to start from; None starts from scratch."""
    hyper_ingp: HyperINGPSettings = HyperINGPSettings()
    """Settings of hyper_ingp."""
    conv3d_net: Conv3DNetSettings = Conv3DNetSettings()
    """Settings of conv3d_net."""
    triplane_transformer: TriplaneTransformerSettings = TriplaneTransformerSettings()
    """Settings of triplane_transformer."""
    field: FieldSettings = FieldSettings()
    """Settings of field."""

    @property
    def chosen(self) -> ArchitectureSettings:
        """The subsection of its name."""
        return getattr(self, self.name)
