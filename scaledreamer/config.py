"""Every setting, typed, with its default and one line of meaning. Needs no torch.

An experiment is a short YAML file with what differs from the defaults, plus `key.path=value` on the command
line. Angles are degrees here (`*_deg`) and radians everywhere else. A `Schedule` is a number, or a line over
fractions of the training, see `scaledreamer.schedules`. Settings of one architecture or prior stand in a
subsection of its name, so that `generator.name=...` alone switches.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from scaledreamer.home import expand_home
from scaledreamer.prompts.check import check_prompt
from scaledreamer.schedules import Constant, Linear, parse_schedule

KEY = "<key>"  # stands for the setting's own path in the messages of validators
MAX_WHOLE = 2**31 - 1
LATER_METHODS = ("vsd",)


def _schedule(value: Any) -> Any:
    parse_schedule(value, key=KEY, max_steps=1)
    return value


def _schedule_from(low: float, high: float) -> AfterValidator:
    def check(value: Any) -> Any:
        line = parse_schedule(value, key=KEY, max_steps=1)
        ends = (line.value_at(0), line.value_at(1))
        if not all(low <= end <= high for end in ends):
            accepted = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
            raise ValueError(f"{KEY}: got {value!r}; accepted are values {accepted}.")
        return value

    return AfterValidator(check)


def _check_size(value: Any) -> Any:
    line, accepted = parse_schedule(value, key=KEY, max_steps=1), "whole numbers from 4 to 1024"
    ends = (line.value_at(0), line.value_at(1))
    if not isinstance(line, Constant):
        accepted += ", in a schedule multiples of 4"
    step = 1 if isinstance(line, Constant) else 4
    if not all(4 <= end <= 1024 and end % step == 0 for end in ends):
        raise ValueError(f"{KEY}: got {value!r}; accepted are {accepted}.")
    return value


def _range_from(low: float, high: float) -> AfterValidator:
    def check(value: list[float]) -> list[float]:
        if not low <= value[0] <= value[1] <= high:
            raise ValueError(
                f"{KEY}: got {value!r}; accepted is [lowest, highest] "
                f"with {low:g} <= lowest <= highest <= {high:g}."
            )
        return value

    return AfterValidator(check)


def _check_betas(value: list[float]) -> list[float]:
    if not all(0 <= beta < 1 for beta in value):
        count = "two" if len(value) == 2 else "three"
        raise ValueError(f"{KEY}: got {value!r}; accepted are {count} numbers from 0 to below 1.")
    return value


def _check_weights(value: list[float]) -> list[float]:
    if not all(weight >= 0 for weight in value):
        raise ValueError(f"{KEY}: got {value!r}; accepted are three numbers of at least 0.")
    return value


def _check_optional_betas(value: list[float] | None) -> list[float] | None:
    return None if value is None else _check_betas(value)


def _check_texts(value: list[str] | None) -> list[str] | None:
    for text in value or []:
        try:
            check_prompt(text)
        except ValueError as error:
            raise ValueError(f"{KEY}: {error}.") from None
    return value


def _check_text(value: str | None) -> str | None:
    return None if value is None else (_check_texts([value]) or [""])[0]


def _expand_home(value: str | None) -> str | None:
    return value if value is None else expand_home(value, KEY)


def _check_model(value: str | list[str] | None) -> str | list[str] | None:
    places = value if isinstance(value, list) else [] if value is None else [value]
    if value == [] or not all(place.strip() for place in places):
        raise ValueError(f"{KEY}: got {value!r}; accepted are hub ids, folders and .safetensors files.")
    expanded = [_expand_home(place) or place for place in places]
    return expanded if isinstance(value, list) else expanded[0] if expanded else None


def _check_negative(value: str) -> str:
    return value if value == "" else (_check_texts([value]) or [""])[0]


def _refuse_later_methods(value: Any) -> Any:
    if value in LATER_METHODS:
        raise ValueError(f"{KEY}: {value!r} is not in this version; accepted are 'asd', 'sds' and 'csd'.")
    return value


def _refuse_stage_3(value: Any) -> Any:
    if value == 3:
        raise ValueError(
            f"{KEY}: got 3; accepted are 0, 1 and 2. Stage 3 splits the parameters themselves, which "
            "generators of some 0.1 B parameters do not need; stage 2 already splits gradients and optimizer."
        )
    return value


Schedule = Annotated[Any, BeforeValidator(_schedule)]
Positive = Annotated[Any, BeforeValidator(_schedule), _schedule_from(0.0, float("inf"))]
Fraction = Annotated[Any, BeforeValidator(_schedule), _schedule_from(0.0, 1.0)]
Size = Annotated[Any, BeforeValidator(_check_size)]
"""A schedule of whole numbers of pixels."""
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
ExpandHome = AfterValidator(_expand_home)
"""Of files and folders: a leading ~ is the home folder. No hub id begins with it."""
Model = Annotated[str | list[str] | None, AfterValidator(_check_model)]
"""Where weights are, or several places of which the first that is found is taken."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, and types are not converted behind the user's back."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*")
    @classmethod
    def _fits_a_whole_number(cls, value: Any) -> Any:
        if isinstance(value, int) and value > MAX_WHOLE:
            raise ValueError(f"{KEY}: got {str(value)[:40]}; accepted are whole numbers up to {MAX_WHOLE}.")
        return value


class Extras(Section):
    """What captions of the tinyworld say beyond kind and colour. Numbers matter relative to each other."""

    count: Annotated[list[float], Field(min_length=3, max_length=3), AfterValidator(_check_weights)] = [
        0.2,
        0.4,
        0.4,
    ]
    """How often nothing, one thing and two things are said."""
    part: Annotated[float, Field(ge=0)] = 1.0
    """How often the colour of a part."""
    pattern: Annotated[float, Field(ge=0)] = 1.0
    """How often stripes or spots."""
    wear: Annotated[float, Field(ge=0)] = 1.0
    """How often a hat, a scarf or a crown, of kinds that wear them."""
    support: Annotated[float, Field(ge=0)] = 1.0
    """How often a box or a plate."""


class Prompts(Section):
    """What to train on: a corpus that comes with the package, a file, or a folder of shards."""

    name: Literal["tinyworld", "core_15", "showcase_400", "compose_2500", "daily_17k", "open_100k"] = (
        "tinyworld"
    )
    """A corpus of the package; of the tinyworld, its seen split."""
    text: Annotated[str | None, AfterValidator(_check_text)] = None
    """One prompt, instead of a corpus of the package."""
    file: Annotated[str | None, ExpandHome] = None
    """A .txt or .json file of prompts (also .gz), instead of a corpus of the package."""
    section: str = "train"
    """Which list of a JSON file."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of a file's prompts kept out, by stable hash."""
    shards: Annotated[str | None, ExpandHome] = None
    """Folder or URL of shards that tools/make_shards.py has made, instead of a corpus or a file."""
    use_embeddings: bool = True
    """Give the generator the text embeddings that shards carry, if there are any."""
    shard_size: Annotated[int | None, Field(ge=1)] = None
    """Make shards of so many prompts of the corpus or file, once, under cache; None keeps all in memory."""
    cache: str = "~/.cache/scaledreamer"
    """Folder for shards that are made here or copied from a URL."""
    cache_gib: Annotated[float, Field(gt=0)] = 100.0
    """Copies of shards used longest ago are removed beyond this size."""
    kinds: Annotated[list[str] | None, Field(min_length=1)] = None
    """Only these kinds of the tinyworld; one that stands there twice is drawn twice as often."""
    max_extras: Annotated[int, Field(ge=0, le=2)] = 2
    """Things said beyond kind and colour, in the tinyworld."""
    extras: Extras = Extras()
    """How often captions of the tinyworld say what."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """Train on this many prompts (tinyworld: meanings) only."""

    @property
    def is_tinyworld(self) -> bool:
        """Whether the prompts have a ground truth."""
        return self.text is self.file is self.shards is None and self.name == "tinyworld"

    @model_validator(mode="after")
    def _one_source(self) -> Prompts:
        given = [name for name in ("text", "file", "shards") if getattr(self, name) is not None]
        given = ["name"] * (self.name != "tinyworld") + given
        if len(given) > 1:
            first, second = given[-2:]
            unset = f"prompts.{first}={'tinyworld' if first == 'name' else 'null'}"
            raise ValueError(
                f"prompts: {first} and {second} are both given; set {unset} or prompts.{second}=null."
            )
        if self.text is not None and self.shard_size is not None:
            raise ValueError(
                "prompts.shard_size: one prompt (prompts.text) needs no shards; set prompts.shard_size=null."
            )
        part = (self.kinds, self.max_extras, self.extras)
        if not self.is_tinyworld and part != (None, 2, Extras()):
            raise ValueError(
                "prompts: kinds, max_extras and extras choose from the tinyworld; set prompts.kinds=null, "
                "prompts.max_extras=2 and prompts.extras={}, or train on the tinyworld."
            )
        count = self.extras.count[: self.max_extras + 1]
        if not sum(count) > 0:
            raise ValueError(
                f"prompts.extras.count: got {self.extras.count}, of which none up to prompts.max_extras="
                f"{self.max_extras} is above 0; raise one of them."
            )
        if self.file is None and self.holdout > 0:
            raise ValueError(
                "prompts.holdout: keeps out prompts of a file, and there is none; corpora of the package "
                "have held-out prompts of their own. Set prompts.holdout=0 or give prompts.file."
            )
        if self.file is None and self.section != "train":
            raise ValueError(
                "prompts.section: chooses a list of a JSON file, and there is none; set "
                "prompts.section=train or give prompts.file."
            )
        if self.shards is not None and (self.shard_size is not None or self.limit is not None):
            name = "shard_size" if self.shard_size is not None else "limit"
            raise ValueError(
                f"prompts.{name}: the shards are made already; set prompts.{name}=null, or make others with "
                "tools/make_shards.py."
            )
        return self


class Conditioner(Section):
    """The text encoder whose output the generator is given; it becomes part of the exported generator."""

    name: Literal["tinyworld", "clip"] = "tinyworld"
    """The shipped one, or any CLIP text encoder."""
    model: Model = None
    """Folder or hub id for clip, or a list of them; None is the shipped one."""
    revision: str | None = None
    """Branch, tag or commit of hub ids; None is the newest."""

    @property
    def models(self) -> list[str]:
        """`model` as a list; empty for the shipped one."""
        return [self.model] if isinstance(self.model, str) else list(self.model or [])


class Cameras(Section):
    """From where training looks at a scene; cameras look at the origin."""

    num_views: Annotated[int, Field(ge=1, le=256)] = 1
    """Views of one prompt in a step, spread around it."""
    elevation_deg: Annotated[Pair, _range_from(-90, 90)] = [-10.0, 45.0]
    """Above the ground plane."""
    elevation_on_sphere: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of cameras drawn evenly over the sphere within elevation_deg, the others evenly in degrees."""
    azimuth_deg: Annotated[Pair, _range_from(-360, 360)] = [-180.0, 180.0]
    """0 is the front."""
    distance: Annotated[Pair, _range_from(0.1, 4)] = [2.5, 2.7]
    """From the origin; from farther away rays would end before the scene does."""
    fov_deg: Annotated[Pair, _range_from(1, 170)] = [38.0, 44.0]
    """Vertical field of view."""


class HyperINGP(Section):
    """A hash grid shared by all prompts, and a hyper-network for each prompt's MLPs (after ATT3D)."""

    num_levels: Annotated[int, Field(ge=1, le=32)] = 8
    """Levels of the hash grid."""
    features_per_level: Annotated[int, Field(ge=1, le=16)] = 4
    """Features of one level."""
    log2_table_size: Annotated[int, Field(ge=4, le=24)] = 14
    """log2 of the most entries that a level may have."""
    base_resolution: Annotated[int, Field(ge=2, le=512)] = 8
    """Grid points a side of the coarsest level."""
    growth: Annotated[float, Field(gt=1, le=4)] = 1.5
    """Resolution of a level relative to the one before."""
    hyper_width: Annotated[int, Field(ge=1, le=16384)] = 128
    """Width of the hyper-network."""
    hyper_depth: Annotated[int, Field(ge=1, le=8)] = 1
    """Hidden layers of the hyper-network."""
    whitening: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far the text's directions are brought to the same variance over the corpus before it: 0 to 1."""
    mlp_width: Annotated[int, Field(ge=1, le=4096)] = 32
    """Width of each prompt's MLPs."""
    mlp_depth: Annotated[int, Field(ge=1, le=8)] = 1
    """Hidden layers of each prompt's MLPs."""
    sphere_radius: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Radius of the sphere that every scene starts as."""
    background: Literal["learned", "none"] = "learned"
    """What rays see behind the scene."""
    grid_backend: Literal["auto", "torch", "triton", "tinycudann"] = "auto"
    """What computes the hash grid; auto is triton on a GPU where it is installed, else torch."""


class Conv3DNet(Section):
    """Noise and text to a volume of features by style-modulated 3D convolutions (after CC3D)."""

    z_dim: Annotated[int, Field(ge=1, le=4096)] = 32
    """Numbers of noise that the mapping network reads."""
    style_dim: Annotated[int, Field(ge=1, le=4096)] = 128
    """Length of the styles, to which the mapping network brings noise and text."""
    mapping_depth: Annotated[int, Field(ge=1, le=8)] = 2
    """Layers of the mapping network."""
    resolution: Literal[8, 16, 32, 64, 128, 256] = 32
    """Lattice points a side of the volume."""
    num_features: Annotated[int, Field(ge=1, le=256)] = 16
    """Features of a point of the volume."""
    max_channels: Annotated[int, Field(ge=1, le=2048)] = 160
    """Most channels of a convolution."""
    channel_base: Annotated[int, Field(ge=8, le=65536)] = 768
    """Over r: channels of a convolution at resolution r, where that is fewer; at least `resolution`."""
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
    gradient_checkpointing: bool = False
    """Compute the convolutions again in the backward pass: less memory, a third more of their work."""


class TriplaneTransformer(Section):
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
    """Give the two MLPs the point's coordinates too; ScaleDreamer's own have the planes' features alone."""
    mask_padding: bool = True
    """Do not look at text tokens that are padding; ScaleDreamer's own weights were trained to."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass instead of keeping them: slower, much less memory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the transformer's products; planes and what follows are float32."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> TriplaneTransformer:
        if self.width % self.num_heads:
            raise ValueError(
                f"{KEY}.width: got {self.width}, which {self.num_heads} heads (num_heads) cannot share "
                f"evenly; give a multiple of {self.num_heads}."
            )
        return self


class PlainField(Section):
    """One scene for one prompt: a hash grid and two MLPs, without text."""

    num_levels: Annotated[int, Field(ge=1, le=32)] = 8
    """Levels of the hash grid."""
    features_per_level: Annotated[int, Field(ge=1, le=16)] = 4
    """Features of one level."""
    log2_table_size: Annotated[int, Field(ge=4, le=24)] = 15
    """log2 of the most entries that a level may have."""
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
    color_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """While training, ask the colour field beside the points: standard deviation in scene units."""
    grid_backend: Literal["auto", "torch", "triton", "tinycudann"] = "auto"
    """What computes the hash grid; auto is triton on a GPU where it is installed, else torch."""


class Generator(Section):
    """The network that is trained."""

    name: Literal["hyper_ingp", "conv3d_net", "triplane_transformer", "field"] = "hyper_ingp"
    """Architecture."""
    start: Annotated[str | None, ExpandHome] = None
    """Run, export or hub id of a generator whose weights the training starts from; None is from nothing."""
    hyper_ingp: HyperINGP = HyperINGP()
    """Settings of hyper_ingp."""
    conv3d_net: Conv3DNet = Conv3DNet()
    """Settings of conv3d_net."""
    triplane_transformer: TriplaneTransformer = TriplaneTransformer()
    """Settings of triplane_transformer."""
    field: PlainField = PlainField()
    """Settings of field."""


class Renderer(Section):
    """Volume rendering while training."""

    image_size: Size = 32
    """Pixels a side; priors see it scaled up to their size. A Schedule grows it, in steps of 4."""
    near: Annotated[float, Field(ge=0)] = 0.1
    """Distance from the camera at which rays begin."""
    far: Annotated[float, Field(gt=0)] = 6.0
    """Distance from the camera at which rays end, if they have not left the scene cube before."""
    num_proposals: Annotated[int, Field(ge=2, le=4096)] = 32
    """Equal intervals of a ray that find, without gradients, where to look."""
    num_resampled: Annotated[int, Field(ge=1, le=4096)] = 16
    """Intervals of a ray that are chosen by the proposals' weights."""
    rendered: Literal["resampled", "union"] = "resampled"
    """What is rendered, with gradients: the resampled intervals, or both kinds, proposals + resampled + 1."""
    lattice_resolution: Annotated[int, Field(ge=4, le=256)] = 20
    """Points a side of the coarse pass' lattice."""
    min_opacity: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Coarse opacity below which a ray is taken for empty, or the rest of its samples for unseen."""
    inverse_deviation: Annotated[float, Field(gt=0)] = 30.0
    """Sharpness of VolSDF's density at the surface."""
    random_background: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a random colour as background."""
    memory_gib: Annotated[float | None, Field(gt=0)] = None
    """Render in parts whose samples fit into it, which are made again backward; None is all at once."""

    @model_validator(mode="after")
    def _near_before_far(self) -> Renderer:
        if self.near >= self.far:
            raise ValueError(
                f"{KEY}.near: got {self.near:g}, which is not before {KEY}.far, {self.far:g}; lower it or "
                f"raise {KEY}.far."
            )
        return self

    @property
    def largest_image_size(self) -> int:
        """Pixels a side when they are most: what memory has to be there for."""
        line = parse_schedule(self.image_size, key="renderer.image_size", max_steps=1)
        return round(max(line.value_at(0), line.value_at(1)))


class LatentDiffusionPrior(Section):
    """How the networks of a latent diffusion prior are run; its subsections differ in defaults alone."""

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
    """Divide a call's images into parts whose activations fit into it; None is all at once."""
    drop_text_encoder: bool = False
    """Encode all texts before training, then free the encoder; they must fit into training.text_cache."""

    @model_validator(mode="after")
    def _graphs_are_compiled(self) -> LatentDiffusionPrior:
        if self.cuda_graphs and not self.compile:
            raise ValueError(
                f"{KEY}.cuda_graphs: replays what compile has made; set {KEY}.compile=true too, or "
                f"{KEY}.cuda_graphs=false."
            )
        return self


class TinyworldPrior(LatentDiffusionPrior):
    """Settings of the shipped prior."""


class StableDiffusionPrior(LatentDiffusionPrior):
    """Settings of Stable Diffusion 1.x and 2.x."""

    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    """Precision of its networks; on a GPU float32 is refused, for its memory."""


class SDXLPrior(LatentDiffusionPrior):
    """Settings of Stable Diffusion XL."""

    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    """Precision of its networks; the autoencoder is float32 unless its config.json allows less."""


class Weights(Section):
    """Where the weights of priors and of clip are looked for."""

    offline: bool = False
    """Never ask a hub: take what is on the disk, or say which files are missing."""
    mirrors: list[str] = []
    """Addresses of hubs to ask where the first one cannot be reached (https://...)."""
    variant: Literal["auto", "fp16", "none"] = "auto"
    """Files of a model: auto is those of half precision where there are some and the dtype is no wider."""


class Prior(Section):
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
    """How far guidance is brought back to the spread of the unguided prediction (arXiv 2305.08891)."""
    negative_prompt: Annotated[str, AfterValidator(_check_negative)] = ""
    """What guidance leads away from; "" is the unconditional text."""
    perp_neg: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Strength of guidance away from the neighbouring views (arXiv 2304.04968); 0 is none."""
    eta: Annotated[float, Field(ge=0, le=100)] = 0.1
    """Growth of ASD's timestep shift with t - t_min."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of its gradient, after pixel clipping."""
    tinyworld: TinyworldPrior = TinyworldPrior()
    """Settings of tinyworld."""
    stable_diffusion: StableDiffusionPrior = StableDiffusionPrior()
    """Settings of stable_diffusion."""
    sdxl: SDXLPrior = SDXLPrior()
    """Settings of sdxl."""

    @property
    def models(self) -> list[str]:
        """`model` as a list; empty for the shipped one."""
        return [self.model] if isinstance(self.model, str) else list(self.model or [])

    @property
    def networks(self) -> LatentDiffusionPrior:
        """The subsection of its name."""
        return getattr(self, self.name)

    @model_validator(mode="after")
    def _has_model(self) -> Prior:
        if self.name != "tinyworld" and not self.model:
            raise ValueError(
                f"{KEY}.model: missing; {self.name} needs a hub id or a folder with the weights."
            )
        return self


class PixelClip(Section):
    """Pixel-wise gradient clipping (PGC) at the prior's input image."""

    mode: Literal["pgc_n", "pgc_v", "pngd", "none"] = "pgc_n"
    """Rule of clipping; none switches off."""
    threshold: Annotated[float, Field(gt=0)] = 0.1
    """c, of one image's gradient; 0.1 belongs to 512 pixels."""
    norm: Literal["l2", "linf"] = "l2"
    """Norm of a pixel over its channels."""


class Distillation(Section):
    """How the prior's predictions become a gradient."""

    method: Annotated[Literal["asd", "sds", "csd"], BeforeValidator(_refuse_later_methods)] = "asd"
    """Rule of score distillation."""
    t_min: Fraction = [0.5, 0.02]
    """Lowest timestep, a fraction of the prior's schedule."""
    t_max: Fraction = [0.98, 0.5]
    """Highest timestep."""
    shift_steps: Annotated[int | None, Field(ge=1)] = None
    """Floor ASD's shift to 1/shift_steps; None is continuous."""
    sample_latents: bool = False
    """Sample the autoencoder's posterior instead of taking its mean."""
    pixel_clip: PixelClip = PixelClip()
    """Pixel-wise gradient clipping."""

    @model_validator(mode="after")
    def _shift_belongs_to_asd(self) -> Distillation:
        if self.shift_steps is not None and self.method != "asd":
            raise ValueError(
                f"{KEY}.shift_steps: rounds the shift of asd, and {KEY}.method is {self.method!r}; set "
                f"{KEY}.shift_steps=null or {KEY}.method=asd."
            )
        return self


class Eikonal(Section):
    """Pulls the SDF's gradient to length 1, at points in space and near the surface."""

    weight: Positive = [6.0, 1.0]
    """Weight over the training."""
    num_points: Annotated[int, Field(ge=2, le=100_000)] = 512
    """Points of each prompt in a step."""
    epsilon: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    """Step of the finite differences."""


class Sparsity(Section):
    """Pulls opacity to zero: without it, volumes tend to fill the view."""

    weight: Positive = 6.0
    """Weight over the training; 0 leaves it out."""


class Opaque(Section):
    """Pulls opacity to 0 or 1."""

    weight: Positive = 0.0
    """Weight over the training; 0 leaves it out."""


class Orientation(Section):
    """Penalizes visible surface that faces away from the camera; needs rendered normals, which cost time."""

    weight: Positive = 0.0
    """Weight over the training; 0 leaves it out."""


class Regularizers(Section):
    """What scenes should be like whatever the prompt says."""

    eikonal: Eikonal = Eikonal()
    """Gradient of the SDF of length 1."""
    sparsity: Sparsity = Sparsity()
    """Little of the image covered."""
    opaque: Opaque = Opaque()
    """Opacity near 0 or 1."""
    orientation: Orientation = Orientation()
    """Visible surface faces the camera."""


class AdanOptimizer(Section):
    """Settings of adan."""

    betas: Annotated[list[float], Field(min_length=3, max_length=3), AfterValidator(_check_betas)] = [
        0.98,
        0.92,
        0.99,
    ]
    """Share that its averages of gradient, change of gradient and square keep of themselves."""


class Optimizer(Section):
    """The optimizer of the generator: torch's, or adan."""

    name: Literal["adam", "adamw", "adan", "sgd"] = "adam"
    """Rule."""
    lr: Positive = 1e-3
    """Learning rate of the generator."""
    background_lr: Positive = 1e-3
    """Learning rate of the background."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which both learning rates rise from 0."""
    betas: Annotated[Pair, AfterValidator(_check_betas)] = [0.5, 0.99]
    """Decay of adam's and adamw's two averages."""
    background_betas: Annotated[Pair | None, AfterValidator(_check_optional_betas)] = None
    """Adam's and adamw's of the background; None is the same."""
    eps: Annotated[float, Field(gt=0)] = 1e-15
    """Of adam, adamw and adan: added to the denominator."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decay of weights (adam: as a gradient, adamw and adan: decoupled)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of sgd."""
    max_gradient_norm: Annotated[float | None, Field(gt=0)] = None
    """Longest gradient of all parameters; None is any."""
    adan: AdanOptimizer = AdanOptimizer()
    """Settings of adan."""

    @model_validator(mode="after")
    def _momentum_belongs_to_sgd(self) -> Optimizer:
        if self.momentum > 0 and self.name != "sgd":
            raise ValueError(
                f"{KEY}.momentum: belongs to sgd, and {KEY}.name is {self.name!r}, whose momentum is the "
                f"first of betas; set {KEY}.momentum=0 or {KEY}.name=sgd."
            )
        return self


class Training(Section):
    """The run."""

    output: Annotated[str, Field(min_length=1), ExpandHome] = "outputs/run"
    """Folder of the run; running again resumes it."""
    max_steps: Annotated[int, Field(ge=1)] = 2000
    """Optimizer steps; schedules stretch with it."""
    minutes: Annotated[float | None, Field(gt=0)] = None
    """Stop cleanly after this long, schedules as they are."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 4
    """Prompts of a step over all ranks and accumulation steps."""
    accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Parts in which each rank computes a step."""
    zero_stage: Annotated[Literal[0, 1, 2], BeforeValidator(_refuse_stage_3)] = 0
    """DeepSpeed's ZeRO stage: 1 splits the optimizer among ranks, 2 gradients as well."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """Of the averaged weights, which are exported."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    deterministic: bool = False
    """Only repeatable operations, slower; the CPU always repeats."""
    text_cache: Annotated[int, Field(ge=0)] = 2048
    """Text encodings kept for each encoder, where those of all prompts with all view words are no more."""
    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps between lines of metrics."""
    sample_every: Annotated[int, Field(ge=1)] = 200
    """Steps between image grids."""
    sample_prompts: Annotated[list[str] | None, AfterValidator(_check_texts)] = None
    """Prompts of the image grids; None is eight of the corpus."""
    tensorboard: bool = True
    """Write TensorBoard files too."""
    record_prompts: bool = False
    """Write down which prompts each rank was given in every step: shown/rank-<n>.jsonl."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    """Steps between checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """Newest checkpoints kept."""
    max_skipped_steps: Annotated[int, Field(ge=1)] = 10
    """Non-finite steps in a row that end the run."""


class Evaluation(Section):
    """Validation while training; the best generator by it is exported."""

    every: Annotated[int | None, Field(ge=1)] = None
    """Steps between validations; None validates never."""
    metric: str = "score"
    """Which of the validation's scores is the higher the better."""
    num_prompts: Annotated[int, Field(ge=1)] = 64
    """Validation prompts."""


class Config(Section):
    """Everything that a run is made of."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of everything random."""
    prompts: Prompts = Prompts()
    """What to train on."""
    conditioner: Conditioner = Conditioner()
    """Text encoder of the generator."""
    weights: Weights = Weights()
    """Where weights are looked for."""
    cameras: Cameras = Cameras()
    """Cameras of the training."""
    generator: Generator = Generator()
    """The network that is trained."""
    renderer: Renderer = Renderer()
    """Volume rendering."""
    priors: Annotated[list[Prior], Field(min_length=1)] = [Prior()]
    """Frozen priors."""
    distillation: Distillation = Distillation()
    """Score distillation."""
    regularizers: Regularizers = Regularizers()
    """Regularizers."""
    optimizer: Optimizer = Optimizer()
    """Optimizer."""
    training: Training = Training()
    """The run."""
    evaluation: Evaluation = Evaluation()
    """Validation while training."""

    @model_validator(mode="after")
    def _cameras_see_the_centre(self) -> Config:
        near, far, (first, last) = self.renderer.near, self.renderer.far, self.cameras.distance
        for key, value, is_wrong, camera, accepted in (
            ("near", near, near >= first, f"the nearest camera stands {first:g}", "less"),
            ("far", far, far <= last, f"the farthest camera stands {last:g}", "more"),
        ):
            if is_wrong:
                raise ValueError(
                    f"renderer.{key}: got {value:g}, and {camera} from the origin (cameras.distance), at "
                    f"which it looks; accepted is {accepted} than that."
                )
        return self

    @model_validator(mode="after")
    def _timesteps_in_order(self) -> Config:
        settings, last = self.distillation, self.training.max_steps
        low = parse_schedule(settings.t_min, key="distillation.t_min", max_steps=last)
        high = parse_schedule(settings.t_max, key="distillation.t_max", max_steps=last)
        places = [(line.first_step, line.last_step) for line in (low, high) if isinstance(line, Linear)]
        corners = {0, last, *(step for pair in places for step in pair)}
        # Between its corners each is a straight line; where one jumps, the step before is a corner too.
        for step in sorted(corners | {step - 1 for step in corners if step > 0}):
            if low.value_at(step) > high.value_at(step):
                raise ValueError(
                    f"distillation.t_min: {low.value_at(step):g} at step {step} is above distillation.t_max, "
                    f"{high.value_at(step):g}; lower it or raise t_max there."
                )
        return self
