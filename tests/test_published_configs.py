"""The shipped configurations of published experiments against a table of the published values.

The table is typed from the official repository, in its units and by its names, each value with its place:
theEricMa/ScaleDreamer at 23f433f, `CONFIG` being configs/multi-prompt_benchmark/ and the experiment's file.
The official scene is a cube of half-width 2 (CONFIG: system.geometry.radius), ours has 1: so lengths are
halved, what is counted per length is doubled, and angles, fields of view, weights and rates stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from scaledreamer import rendering
from scaledreamer.assemble import make_camera_sampler
from scaledreamer.config import Config, flatten, load_config
from scaledreamer.rendering.volume import VolumeRenderer
from scaledreamer.schedules import parse_schedule

ROOT = Path(__file__).parent.parent
OUR_LENGTH = 1 / 2  # of a published one


def as_it_is(value: Any) -> Any:
    return value


def length(value: Any) -> Any:
    return [OUR_LENGTH * each for each in value] if isinstance(value, list) else OUR_LENGTH * value


def beta(learned_variance: float) -> float:
    """The official parameter is a tenth of the logarithm of 1 / beta; beta is a length."""
    return OUR_LENGTH / math.exp(10 * learned_variance)


def share_of_coin(probability: float) -> float:
    """A coin tossed for each batch of one prompt is a share of the prompts."""
    return probability


class Row(NamedTuple):
    """A published value: our key, the value in the official units, its place, and how it becomes ours."""

    key: str
    published: Any
    source: str
    convert: Callable[[Any], Any] = as_it_is


CAMERAS = "threestudio/data/uncond.py"
ESTIMATOR = "threestudio/models/estimators.py"
RENDERER = "custom/amortized/models/renderers/generative_space_volsdf_volume_renderer.py"
GUIDANCE = "threestudio/models/guidance/stable_diffusion_asd_guidance.py"
STYLEGAN = "custom/amortized/extern/stylegan_3dconv_modules.py"
HYPER = "custom/amortized/models/geometry/hyper_iNGP.py"
PROMPTS = "custom/amortized/models/prompt_processors/base.py"
SYSTEM = "custom/amortized/systems/multiprompt_radience_field_generator.py"

SCENES = [
    Row("cameras.distance", [1.0, 1.5], "CONFIG: data.camera_distance_range", length),
    Row("cameras.fov_deg", [40.0, 70.0], "CONFIG: data.fovy_range"),
    Row("cameras.elevation_deg", [-10.0, 45.0], "CONFIG: data.elevation_range"),
    Row("cameras.elevation_on_sphere", 0.5, f"{CAMERAS}: collate", share_of_coin),
    Row("cameras.azimuth_deg", [-180.0, 180.0], f"{CAMERAS}: azimuth_range"),
    Row("cameras.num_views", 1, "CONFIG: data_type"),
    Row("renderer.image_size", 64, "CONFIG: data.width, data.height"),
    Row("renderer.volume.near", 0.1, "CONFIG: system.renderer.near_plane", length),
    Row("renderer.volume.far", 4.0, "CONFIG: system.renderer.far_plane", length),
    Row("renderer.volume.num_proposals", 128, "CONFIG: system.renderer.num_samples_per_ray_importance"),
    Row("renderer.volume.num_resampled", 64, "CONFIG: system.renderer.num_samples_per_ray"),
    Row("renderer.volume.rendered", "union", f"{ESTIMATOR}: sampling"),
    Row("renderer.volume.min_opacity", 0.0, f"{RENDERER}: every ray and interval is rendered"),
    Row(
        "renderer.volume.beta",
        0.340119,
        "CONFIG: system.renderer.learned_variance_init",
        beta,
    ),
    Row("regularizers.sparsity.weight", 20.0, "CONFIG: system.loss.lambda_sparsity"),
    Row("regularizers.orientation.weight", 0.0, "CONFIG: system.loss.lambda_orient"),
    Row(
        "regularizers.eikonal.epsilon",
        0.01,
        "CONFIG: system.geometry.finite_difference_normal_eps",
        length,
    ),
    Row("optimizer.lr", 0.004, "CONFIG: system.optimizer.params.geometry.lr"),
    Row("optimizer.background_lr", 0.001, "CONFIG: system.optimizer.params.background.lr"),
    Row("optimizer.weight_decay", 0.0, "threestudio/systems/optimizers.py and torch's default"),
    Row("optimizer.max_gradient_norm", None, "threestudio/systems/optimizers.py"),
    Row("optimizer.warmup_steps", 0, "CONFIG: system.scheduler, of which there is none"),
    Row("training.ema_decay", 0.0, f"{SYSTEM}: the trained weights themselves"),
    Row("seed", 0, "CONFIG: seed"),
    Row("priors.0.method", "asd", "CONFIG: system.guidance_type"),
    Row("priors.0.asd.shift_steps", 1000, f"{GUIDANCE}: get_t_plus"),
    Row("distillation.sample_latents", True, f"{GUIDANCE}: encode_images"),
    Row("priors.0.guidance_scale", 7.5, "CONFIG: system.guidance.guidance_scale"),
    Row("priors.0.asd.eta", 0.1, "CONFIG: system.guidance.plus_ratio"),
    Row("priors.0.perp_neg", -0.5, "CONFIG: system.guidance.guidance_perp_neg", abs),
    Row("priors.0.negative_prompt", "", f"{PROMPTS}: negative_prompt"),
    Row("priors.0.weight", 1.0, "CONFIG: system.loss.lambda_asd"),
]
STABLE_DIFFUSION = [
    Row("priors.0.name", "stable_diffusion", "CONFIG: system.guidance_type"),
    Row("priors.0.stable_diffusion.dtype", "float16", f"{GUIDANCE}: half_precision_weights"),
]
ADAM = [
    Row("optimizer.name", "adam", "CONFIG: system.optimizer.name"),
    Row("optimizer.betas", [0.0, 0.99], "CONFIG: system.optimizer.args.betas"),
    Row("optimizer.eps", 1e-8, "CONFIG: system.optimizer.args.eps"),
]
ADAN = [
    Row("optimizer.name", "adan", "CONFIG: system.optimizer.name"),
    Row("optimizer.adan.betas", [0.98, 0.92, 0.99], "CONFIG: system.optimizer.args.betas"),
    Row("optimizer.eps", 1e-15, "CONFIG: system.optimizer.args.eps"),
]
GRID = f"{HYPER}: pos_encoding_config"
NETWORK = "CONFIG: system.geometry.hypernet_config"
HYPER_INGP = [
    Row("generator.name", "hyper_ingp", "CONFIG: system.geometry_type"),
    Row("generator.hyper_ingp.num_levels", 16, GRID),
    Row("generator.hyper_ingp.features_per_level", 2, GRID),
    Row("generator.hyper_ingp.log2_table_size", 19, GRID),
    Row("generator.hyper_ingp.base_resolution", 16, GRID),
    Row("generator.hyper_ingp.growth", 1.447269237440378, GRID),
    Row("generator.hyper_ingp.hyper_width", 64, f"{NETWORK}.n_neurons"),
    Row("generator.hyper_ingp.hyper_depth", 1, f"{NETWORK}.n_hidden_layers"),
    Row("generator.hyper_ingp.mlp_width", 64, f"{NETWORK}.out_dims"),
    Row("generator.hyper_ingp.mlp_depth", 1, f"{NETWORK}.out_dims"),
    Row("generator.hyper_ingp.sphere_radius", 0.5, "CONFIG: system.geometry.sdf_bias_params", length),
    Row("generator.hyper_ingp.background", "learned", "CONFIG: system.background_type"),
    Row("renderer.random_background", 0.2, "CONFIG: system.background.random_aug_prob", share_of_coin),
]
SPACE = "CONFIG: system.geometry.space_generator_config"
MLP = "custom/amortized/models/geometry/stylegan_3dconv_net.py: mlp_network_config"
CONV3D_NET = [
    Row("generator.name", "conv3d_net", "CONFIG: system.geometry_type"),
    Row("generator.conv3d_net.z_dim", 64, f"{SPACE}.z_dim"),
    Row("generator.conv3d_net.style_dim", 256, f"{SPACE}.w_dim"),
    Row("generator.conv3d_net.mapping_depth", 2, f"{SPACE}.num_layers"),
    Row("generator.conv3d_net.resolution", 128, f"{SPACE}.img_resolution"),
    Row("generator.conv3d_net.num_features", 32, f"{SPACE}.img_channels"),
    Row("generator.conv3d_net.position_bias_resolution", 64, f"{STYLEGAN}: bias_resolution"),
    Row("generator.conv3d_net.mlp_width", 64, f"{MLP}.n_neurons"),
    Row("generator.conv3d_net.mlp_depth", 1, f"{MLP}.n_hidden_layers"),
    Row("generator.conv3d_net.sphere_radius", 0.8, "CONFIG: system.geometry.sdf_bias_params", length),
    Row("generator.conv3d_net.background", "learned", "CONFIG: system.background_type"),
    Row(
        "renderer.random_background",
        0.5,
        "threestudio/models/background/neural_environment_map_background.py: random_aug_prob",
        share_of_coin,
    ),
]
ROWS = {
    "mg15": SCENES + STABLE_DIFFUSION + ADAM + HYPER_INGP,
    "at2520": SCENES + STABLE_DIFFUSION + ADAM + CONV3D_NET,
    "df415": SCENES + STABLE_DIFFUSION + ADAM + CONV3D_NET,
    "asd_100k": SCENES + STABLE_DIFFUSION + ADAN + CONV3D_NET,
    "mg15_sdxl": SCENES + ADAM + HYPER_INGP,  # follows it in all but the prior
}
FILES = {
    "mg15": "asd_sd_hyper_iNGP_50k.yaml",
    "at2520": "asd_sd_3dconv_net_50k.yaml",
    "df415": "asd_sd_3dconv_net_100k.yaml",
    "asd_100k": "asd_sd_3dconv_net_300k.yaml",
}
FILES["mg15_sdxl"] = FILES["mg15"]
STEPS = {  # trainer.max_steps
    "asd_sd_hyper_iNGP_50k.yaml": 50_000,
    "asd_sd_3dconv_net_50k.yaml": 50_000,
    "asd_sd_3dconv_net_100k.yaml": 100_000,
    "asd_sd_3dconv_net_300k.yaml": 300_000,
}
SCHEDULES = {  # first step, value there, value at the end, last step
    "distillation.t_min": ("system.guidance.min_step_percent", 0, 0.5, 0.02, 1),
    "distillation.t_max": ("system.guidance.max_step_percent", 0, 0.98, 0.5, 1),
    "regularizers.opaque.weight": ("system.loss.lambda_opaque", 0.8, 0.0, 10.0, 1),
    "regularizers.eikonal.weight": ("system.loss.lambda_eikonal", 0, 100.0, 1.0, 0.1),
}
"""Steps as shares of the experiment's `trainer.max_steps`; some of the files begin or end a step later."""
CHANNELS = {4: 512, 8: 512, 16: 512, 32: 256, 64: 128, 128: 64}
"""By resolution; the last three times channel_multiplier (STYLEGAN: channels_dict)."""
MULTIPLIERS = {"asd_100k": 2}
"""CONFIG: system.geometry.space_generator_config.channel_multiplier; 1 elsewhere."""
OWN_PROMPTS = {
    "mg15": "core_15",
    "at2520": "compose_2500",
    "df415": "showcase_400",
    "asd_100k": "open_100k",
    "mg15_sdxl": "core_15",
}
"""Our corpora in the manner of the published ones, which are not shipped."""


@pytest.fixture(scope="module", params=ROWS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def config(name: str) -> Config:
    return load_config(ROOT / "configs" / f"{name}.yaml")


def test_settings_are_the_published_ones_in_our_units(name: str, config: Config) -> None:
    ours = flatten(config.model_dump())
    wrong = []
    for key, published, source, convert in ROWS[name]:
        expected = convert(published)
        is_number = isinstance(expected, int | float | list) and not isinstance(expected, bool)
        if ours[key] != (pytest.approx(expected, rel=1e-4) if is_number else expected):
            place = source.replace("CONFIG", f"configs/multi-prompt_benchmark/{FILES[name]}")
            wrong.append(
                f"{key}: ours {ours[key]!r}, published {published!r}, in our units {expected!r} ({place})"
            )
    assert not wrong, "\n".join(wrong)


def test_steps_and_schedules_are_the_published_ones(name: str, config: Config) -> None:
    steps, ours = STEPS[FILES[name]], config.model_dump()
    assert config.training.max_steps == steps
    for key, (source, first, start, end, last) in SCHEDULES.items():
        section, *rest = key.split(".")
        value = ours[section]
        for part in rest:
            value = value[part]
        line = parse_schedule(value, key=key).over(steps)
        for step in (
            0,
            steps // 20,
            steps // 10,
            steps // 2,
            round(0.8 * steps),
            round(0.9 * steps),
            steps - 1,
        ):
            done = min(max((step / steps - first) / (last - first), 0.0), 1.0)
            published = start + (end - start) * done
            assert line.value_at(step) == pytest.approx(published, abs=1e-3 * max(start, end)), (source, step)


def test_a_ray_has_193_intervals(config: Config) -> None:
    """129 edges of proposals and 65 of what is resampled from them (ESTIMATOR: sampling)."""
    assert rendering.configured(config.renderer).num_samples == (129 + 65) - 1


def test_a_step_draws_its_cameras_and_renders_as_the_settings_say(config: Config) -> None:
    """Half of 2,000 elevations are even on the sphere (their mean sine is that of the interval's middle)."""
    sampler = make_camera_sampler(config.cameras, config.renderer, config.training.max_steps)
    uniforms = torch.rand(2000, 1, 4, generator=torch.Generator().manual_seed(0))
    cameras = sampler.sample(uniforms)
    on_sphere = cameras.elevation[uniforms[..., 0] < 0.5].sin()
    middle = (math.sin(math.radians(-10)) + math.sin(math.radians(45))) / 2
    assert float(on_sphere.mean()) == pytest.approx(middle, abs=0.02)
    assert float(on_sphere.min()) < -0.16 and float(on_sphere.max()) > 0.69
    renderer = rendering.configured(config.renderer)
    assert isinstance(renderer, VolumeRenderer)
    assert (renderer.near, renderer.far, renderer.rendered) == (0.05, 2.0, "union")
    scored = renderer.for_scores()
    assert (scored.near, scored.far) == (VolumeRenderer.near, VolumeRenderer.far)


def test_proposals_are_not_blunted_by_their_lattice(config: Config) -> None:
    """Density is no sharper than 4 over the lattice's spacing: that has to be the published sharpness."""
    spacing = 2 / (config.renderer.volume.lattice_resolution - 1)
    assert 4 / spacing >= 1 / config.renderer.volume.beta


def test_channels_are_the_published_ones(name: str, config: Config) -> None:
    if config.generator.name != "conv3d_net":
        return
    sizes, multiplier = config.generator.conv3d_net, MULTIPLIERS.get(name, 1)
    ours = {r: min(sizes.max_channels, sizes.channel_base // r) for r in CHANNELS}
    assert ours == {r: n * (multiplier if r >= 32 else 1) for r, n in CHANNELS.items()}


def test_prior_and_conditioner_are_one_model_and_the_rest_is_our_own(name: str, config: Config) -> None:
    (prior,) = config.priors
    hub_id = {"mg15_sdxl": "stabilityai/stable-diffusion-xl-base-1.0"}
    assert prior.models[0] == hub_id.get(name, "stabilityai/stable-diffusion-2-1-base")
    assert (config.conditioner.name, config.conditioner.models) == ("clip", prior.models)
    assert config.prompts.name == OWN_PROMPTS[name]
    assert config.training.output == f"outputs/{name}"
    clip = config.distillation.pixel_clip
    assert (clip.mode, clip.threshold, clip.norm) == ("pgc_n", 0.1, "l2")


def test_the_document_has_every_setting_of_the_table() -> None:
    text = (ROOT / "docs" / "published_settings.md").read_text()
    keys = {row.key for rows in ROWS.values() for row in rows} | set(SCHEDULES)
    assert not [key for key in sorted(keys) if f"`{key}`" not in text]


def test_the_heads_name_what_differs() -> None:
    """In mg15.yaml, to which the others' heads point."""
    heads = {
        name: (ROOT / "configs" / f"{name}.yaml").read_text().partition("\nprompts:")[0] for name in ROWS
    }
    first = heads.pop("mg15").lower()
    for word in ("pixel_clip", "prompts", "lattice", "cube", "jitter", "eikonal", "timesteps", "biases"):
        assert word in first, word
    assert "background" in first and "non-finite" in first
    assert all("head of mg15.yaml" in head for head in heads.values())


def test_planes_that_hide_the_cameras_centre_are_named() -> None:
    for setting, message in (
        (
            "renderer.volume.near=0.5",
            "renderer.volume.near: got 0.5, and the nearest camera stands 0.5 from the origin",
        ),
        (
            "renderer.volume.far=0.75",
            "renderer.volume.far: got 0.75, and the farthest camera stands 0.75 from the origin",
        ),
        (
            "renderer.volume.near=2",
            r"renderer.volume.near: got 2, which is not before renderer.volume.far, 2; lower it",
        ),
        ("cameras.elevation_on_sphere=1.5", "cameras.elevation_on_sphere"),
        ("renderer.volume.rendered=both", "renderer.volume.rendered: .*'resampled' or 'union'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_config(ROOT / "configs" / "mg15.yaml", [setting])
