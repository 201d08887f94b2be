"""The shipped configurations of published experiments against the table of FACTS, section 3.

Typed here anew, in the published units: a scene of half-width 2, where ours has 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scaledreamer.build import build_distillation, build_regularizers
from scaledreamer.config import Config
from scaledreamer.config_file import load_config
from scaledreamer.schedules import parse_schedule

ROOT = Path(__file__).parent.parent
OUR_LENGTH = 1 / 2  # of a published one
HYPER_INGP = {"generator": "hyper_ingp"}
CONV3D_NET = {"generator": "conv3d_net", "multiplier": 1}
TABLE: dict[str, dict[str, Any]] = {
    "mg15": {"steps": 50_000, "optimizer": "adam", "prompts": "core_15"} | HYPER_INGP,
    "at2520": {"steps": 50_000, "optimizer": "adam", "prompts": "compose_2500"} | CONV3D_NET,
    "df415": {"steps": 100_000, "optimizer": "adam", "prompts": "showcase_400"} | CONV3D_NET,
    "asd_100k": {"steps": 300_000, "optimizer": "adan", "prompts": "open_100k"}
    | CONV3D_NET
    | {"multiplier": 2},
    "mg15_sdxl": {"steps": 50_000, "optimizer": "adam", "prompts": "core_15"} | HYPER_INGP,
}


@pytest.fixture(scope="module", params=TABLE)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def config(name: str) -> Config:
    return load_config(ROOT / "configs" / f"{name}.yaml")


def test_prompts_steps_and_prior(name: str, config: Config) -> None:
    assert config.prompts.name == TABLE[name]["prompts"]
    assert config.training.max_steps == TABLE[name]["steps"]
    (prior,) = config.priors
    assert (prior.guidance_scale, prior.eta, prior.perp_neg) == (7.5, 0.1, 0.5)
    assert prior.negative_prompt == "" and prior.networks.dtype == "bfloat16"
    if name == "mg15_sdxl":
        assert prior.name == "sdxl" and prior.models == ["stabilityai/stable-diffusion-xl-base-1.0"]
    else:
        assert prior.name == "stable_diffusion"
        assert prior.models[0] == "stabilityai/stable-diffusion-2-1-base" and len(prior.models) > 1
    assert (config.conditioner.name, config.conditioner.models) == ("clip", prior.models)
    assert config.training.output == f"outputs/{name}"


def test_optimizer(name: str, config: Config) -> None:
    optimizer = config.optimizer
    assert optimizer.name == TABLE[name]["optimizer"]
    assert (optimizer.lr, optimizer.background_lr, optimizer.weight_decay) == (4e-3, 1e-3, 0)
    if optimizer.name == "adan":
        assert (optimizer.adan.betas, optimizer.eps) == ([0.98, 0.92, 0.99], 1e-15)
    else:
        assert (optimizer.betas, optimizer.eps) == ([0.0, 0.99], 1e-8)


def test_cameras_and_renderer(config: Config) -> None:
    cameras, renderer = config.cameras, config.renderer
    assert [each / OUR_LENGTH for each in cameras.distance] == [1.0, 1.5]
    assert (cameras.fov_deg, cameras.elevation_deg, cameras.num_views) == ([40, 70], [-10, 45], 1)
    assert cameras.azimuth_deg == [-180, 180]
    assert (renderer.image_size, renderer.num_samples, renderer.num_importance_samples) == (64, 64, 128)
    assert renderer.inverse_deviation * OUR_LENGTH == 30  # one over a length
    assert config.regularizers.eikonal.epsilon / OUR_LENGTH == 0.01


def test_schedules(name: str, config: Config) -> None:
    steps = TABLE[name]["steps"]
    regularizers = build_regularizers(config.regularizers, steps)
    start, half, end = (regularizers.weights_at(step) for step in (0, steps // 20, steps - 1))
    assert (start["sparsity"], end["sparsity"]) == (20, 20)
    assert (start["eikonal"], half["eikonal"]) == pytest.approx((100, 50.5))
    assert [regularizers.weights_at(int(share * steps))["eikonal"] for share in (0.1, 0.5)] == [1, 1]
    opaque = [regularizers.weights_at(int(share * steps)).get("opaque", 0) for share in (0.5, 0.8, 0.9)]
    assert [*opaque, end["opaque"]] == pytest.approx([0, 0, 5, 10], abs=2e-3)
    distillation = build_distillation(config.distillation, steps)
    ends = [(line.value_at(0), line.value_at(steps)) for line in (distillation.t_min, distillation.t_max)]
    assert ends == [(0.5, 0.02), (0.98, 0.5)]
    assert (distillation.method, distillation.clip_mode, distillation.clip_threshold) == ("asd", "pgc_n", 0.1)
    rate = parse_schedule(config.optimizer.lr, key="", max_steps=steps)
    assert rate.value_at(0) == rate.value_at(steps) == 4e-3


def test_generator(name: str, config: Config) -> None:
    assert config.generator.name == TABLE[name]["generator"]
    is_convolution = config.generator.name == "conv3d_net"
    assert config.renderer.random_background == (0.5 if is_convolution else 0.2)
    if is_convolution:
        check_conv3d_net(config, TABLE[name]["multiplier"])
    else:
        check_hyper_ingp(config)


def check_conv3d_net(config: Config, multiplier: int) -> None:
    sizes = config.generator.conv3d_net
    assert (sizes.z_dim, sizes.style_dim, sizes.mapping_depth) == (64, 256, 2)
    assert (sizes.resolution, sizes.num_features) == (128, 32)
    published = {4: 512, 8: 512, 16: 512, 32: 256 * multiplier, 64: 128 * multiplier, 128: 64 * multiplier}
    assert {r: min(sizes.max_channels, sizes.channel_base // r) for r in published} == published
    assert (sizes.position_bias_resolution, sizes.mlp_width, sizes.mlp_depth) == (64, 64, 1)
    assert sizes.sphere_radius / OUR_LENGTH == 0.8 and sizes.background == "learned"


def check_hyper_ingp(config: Config) -> None:
    sizes = config.generator.hyper_ingp
    assert (sizes.num_levels, sizes.features_per_level, sizes.log2_table_size) == (16, 2, 19)
    assert (sizes.base_resolution, sizes.growth) == (16, 1.447)
    assert (sizes.hyper_width, sizes.hyper_depth, sizes.mlp_width, sizes.mlp_depth) == (64, 1, 64, 1)
    assert sizes.sphere_radius / OUR_LENGTH == 0.5 and sizes.background == "learned"
