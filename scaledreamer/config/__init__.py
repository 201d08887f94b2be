"""Every setting, typed, with its default and one line of meaning. Needs no torch.

An experiment is a short YAML file with what differs from the defaults, plus `key.path=value` on the command
line. Angles are degrees here (`*_deg`) and radians everywhere else. A `Schedule` is a number, or a line over
fractions of the training, see `scaledreamer.schedules`. Settings of one architecture or prior stand in a
subsection of its name, so that `generator.name=...` alone switches.

`types` is what settings are made of, `file` reads and writes them, `run` joins the sections of all parts.
"""

from scaledreamer.config.data import ConditionerSettings, ExtrasSettings, PromptSettings
from scaledreamer.config.file import (
    dump_config,
    find_config,
    flatten,
    load_config,
    parse_config,
    read_yaml,
    shipped_configs,
    valid_keys,
)
from scaledreamer.config.generators import (
    ArchitectureSettings,
    Conv3DNetSettings,
    FieldSettings,
    GeneratorSettings,
    HyperINGPSettings,
    TriplaneTransformerSettings,
)
from scaledreamer.config.priors import (
    ASDSettings,
    DistillationSettings,
    LatentDiffusionSettings,
    PixelClipSettings,
    PriorSettings,
    SDXLSettings,
    StableDiffusionSettings,
    TinyworldSettings,
    WeightSettings,
)
from scaledreamer.config.rendering import CameraSettings, RendererSettings
from scaledreamer.config.resume import differing_keys, free_settings, may_change, renamed_keys
from scaledreamer.config.run import Config
from scaledreamer.config.training import (
    AdanSettings,
    EikonalSettings,
    EvaluationSettings,
    OpaqueSettings,
    OptimizerSettings,
    OrientationSettings,
    RegularizerSettings,
    SparsitySettings,
    TrainingSettings,
)
from scaledreamer.config.types import Section

__all__ = [
    "ASDSettings",
    "AdanSettings",
    "ArchitectureSettings",
    "CameraSettings",
    "ConditionerSettings",
    "Config",
    "Conv3DNetSettings",
    "DistillationSettings",
    "EikonalSettings",
    "EvaluationSettings",
    "ExtrasSettings",
    "FieldSettings",
    "GeneratorSettings",
    "HyperINGPSettings",
    "LatentDiffusionSettings",
    "OpaqueSettings",
    "OptimizerSettings",
    "OrientationSettings",
    "PixelClipSettings",
    "PriorSettings",
    "PromptSettings",
    "RegularizerSettings",
    "RendererSettings",
    "SDXLSettings",
    "Section",
    "SparsitySettings",
    "StableDiffusionSettings",
    "TinyworldSettings",
    "TrainingSettings",
    "TriplaneTransformerSettings",
    "WeightSettings",
    "dump_config",
    "differing_keys",
    "find_config",
    "flatten",
    "free_settings",
    "load_config",
    "may_change",
    "parse_config",
    "read_yaml",
    "renamed_keys",
    "shipped_configs",
    "valid_keys",
]
