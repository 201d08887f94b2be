"""From settings to parts: each setting arrives where it belongs."""

from __future__ import annotations

import pytest
import torch

from scaledreamer import assemble, generators
from scaledreamer.config import Config, GeneratorSettings, load_config
from scaledreamer.contracts import Generator
from scaledreamer.launch.process import start_process
from scaledreamer.methods.score import ASD, CSD, SDS
from scaledreamer.prompts.conditioner import TextConditioner, make_conditioner
from scaledreamer.prompts.source import PromptList
from scaledreamer.schedules import Constant, Linear
from scaledreamer.training.judge import PixelClip
from scaledreamer.training.regularizers import Regularizers, make_regularizers
from tests.support.training_fakes import RandomPrior

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def conditioner() -> TextConditioner:
    config = Config()
    return make_conditioner(config.conditioner, config.weights, CPU)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hyper_ingp", {"condition_dim": 8}),
        ("conv3d_net", {"condition_dim": 8}),
        ("triplane_transformer", {"token_dim": 6}),
        ("field", {}),
    ],
)
def test_each_generator_is_made_from_its_section_and_what_it_reads_of_the_text(
    name: str, text: dict[str, int]
) -> None:
    config = load_config(None, [f"generator.name={name}", f"generator.{name}.mlp_width=24"])
    settings = generators.constructor_settings(config.generator, condition_dim=8, token_dim=6)
    generator = generators.make(name, settings)
    found = {key: generator.config[key] for key in ("condition_dim", "token_dim") if key in generator.config}
    assert found == text and generator.config["mlp_width"] == 24
    assert isinstance(generator, generators.class_of(name))


def test_tokens_are_as_long_as_the_pooled_vector_where_nothing_else_is_said() -> None:
    settings = GeneratorSettings(name="triplane_transformer")
    assert generators.constructor_settings(settings, condition_dim=8)["token_dim"] == 8


def test_initial_weights_are_a_function_of_the_seed(conditioner: TextConditioner) -> None:
    def made(seed: int) -> list[torch.Tensor]:
        config = load_config(None, [f"seed={seed}"])
        generator: Generator = assemble.make_generator(config, conditioner, PromptList(["a red frog"]), CPU)
        return list(generator.state_dict().values())

    first, again, other = made(1), made(1), made(2)
    assert all(map(torch.equal, first, again)) and not all(map(torch.equal, first, other))


def test_each_regularizer_has_its_own_schedule() -> None:
    config = load_config(
        None,
        [
            "regularizers.eikonal={weight: [4, 2, 0.0, 0.5], num_points: 6, epsilon: 0.02}",
            "regularizers.sparsity.weight=3",
            "regularizers.opaque.weight=[1, 5]",
            "regularizers.orientation.weight=7",
        ],
    )
    assert make_regularizers(config.regularizers, 10) == Regularizers(
        eikonal=Linear(4.0, 2.0, 0, 5),
        sparsity=Constant(3.0),
        opaque=Linear(1.0, 5.0, 0, 10),
        orientation=Constant(7.0),
        num_points=6,
        epsilon=0.02,
    )


def test_each_camera_range_arrives_and_the_image_size_follows_the_training() -> None:
    config = load_config(
        None,
        [
            "cameras={num_views: 3, elevation_deg: [1, 2], elevation_on_sphere: 0.5, azimuth_deg: [3, 4]}",
            "cameras={distance: [2.1, 2.2], fov_deg: [40, 41]}",
            "renderer.image_size=[16, 32]",
        ],
    )
    sampler = assemble.make_camera_sampler(config.cameras, config.renderer, 10)
    assert sampler.elevation_deg == (1, 2) and sampler.azimuth_deg == (3, 4)
    assert sampler.distance == (2.1, 2.2) and sampler.fov_deg == (40, 41)
    assert sampler.elevation_on_sphere == 0.5 and sampler.num_views == 3
    assert sampler.image_size == Linear(16.0, 32.0, 0, 10)


def test_each_prior_has_its_own_method_texts_and_weight() -> None:
    config = load_config(
        None,
        [
            "priors.0={guidance_scale: 3, guidance_rescale: 0.5, weight: 2, perp_neg: 1.5}",
            "priors.0.asd={eta: 0.3, shift_steps: 100}",
            "priors.1={method: sds, guidance_scale: 9, negative_prompt: a blur}",
            "priors.2.method=csd",
            "distillation={t_min: 0.1, t_max: [0.9, 0.5], sample_latents: true}",
            "distillation.pixel_clip={mode: pgc_v, threshold: 0.7, norm: linf}",
            "training.max_steps=10",
        ],
    )
    first, second, third = assemble.make_judges(config, CPU, text_cache=10)
    asd, sds = first.method, second.method
    assert isinstance(asd, ASD) and isinstance(sds, SDS) and isinstance(third.method, CSD)
    assert (asd.eta, asd.shift_steps, asd.guidance.scale, asd.guidance.rescale) == (0.3, 100, 3.0, 0.5)
    assert (sds.guidance.scale, sds.guidance.rescale) == (9.0, 0.0)
    assert (first.weight, second.weight) == (2.0, 1.0)
    assert (first.texts.perp_neg, first.texts.negative_prompt) == (1.5, "")
    assert (second.texts.perp_neg, second.texts.negative_prompt) == (0.0, "a blur")
    for judge in (first, second, third):
        assert judge.samples_latents and judge.clip == PixelClip("pgc_v", 0.7, "linf")
    for method in (asd, sds, third.method):
        assert method.timesteps.t_min == Constant(0.1) and method.timesteps.t_max == Linear(0.9, 0.5, 0, 10)


def test_cameras_that_do_not_fill_the_groups_of_a_prior_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = RandomPrior()
    prior.num_views = 4
    monkeypatch.setattr("scaledreamer.priors.make", lambda *arguments: prior)
    (judge,) = assemble.make_judges(load_config(None, ["cameras.num_views=8"]), CPU, 0)
    assert judge.prior is prior
    message = r"^cameras\.num_views: got 6, and priors\.0 judges 4 views together; give a multiple of 4\.$"
    with pytest.raises(ValueError, match=message):
        assemble.make_judges(load_config(None, ["cameras.num_views=6"]), CPU, 0)


def test_the_runs_own_settings_reach_engine_average_and_batches() -> None:
    settings = [
        "renderer.image_size=4",
        "renderer.random_background=0.25",
        "generator.hyper_ingp={num_levels: 1, log2_table_size: 4, hyper_width: 8, mlp_width: 8}",
        "optimizer.max_gradient_norm=0.75",
        "training={batch_size: 6, accumulation_steps: 3, ema_decay: 0.9, zero_stage: 1, device: cpu}",
        "prompts.name=core_15",
    ]
    trainer = assemble.make_trainer(load_config(None, settings), start_process("cpu"))
    assert trainer.engine.module.random_background == 0.25
    assert (trainer.engine.max_norm, trainer.engine.zero_stage) == (0.75, 1)
    assert trainer.averaged.decay == 0.9
    assert [list(trainer.batches.indices(part)) for part in range(3)] == [[0, 1], [2, 3], [4, 5]]
