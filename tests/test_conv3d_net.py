"""3DConv-net: starts as a sphere, equals naive loops, and treats prompts and noise independently."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from scaledreamer import generators
from scaledreamer.cli.train import main
from scaledreamer.config import load_config
from scaledreamer.contracts import GeneratorText, Scene
from scaledreamer.doctor import networks
from scaledreamer.generators.conv3d_net import Conv3DNet
from scaledreamer.generators.styled import Dense, StyledConv, modulated_conv3d
from scaledreamer.pipeline import TextTo3D, draw_noise
from scaledreamer.training.rendered import RenderedGenerator
from tests.support.generator_laws import (
    assert_a_batch_of_two_equals_two_batches_of_one,
    assert_equal_on,
    assert_every_parameter_gets_a_gradient,
    assert_gradients_equal_finite_differences,
    gradients,
    moved,
    numbers_kept,
    part,
    points,
    relative,
)
from tests.support.generator_laws import pooled_condition as condition
from tests.support.random_models import write_random_prior
from tests.support.runs import write_config
from tests.support.tiny_export import tiny_pipeline

SMALL = {
    "z_dim": 5,
    "style_dim": 8,
    "resolution": 8,
    "num_features": 4,
    "max_channels": 6,
    "channel_base": 40,
    "position_bias_resolution": 8,
    "mlp_width": 8,
}
PROMPT = "a red-eyed tree frog"


def make_generator(dtype: torch.dtype = torch.float32, **settings: Any) -> Conv3DNet:
    torch.manual_seed(0)
    return Conv3DNet(condition_dim=6, **{**SMALL, **settings}).to(dtype)


def trained(dtype: torch.dtype = torch.float32, **settings: Any) -> Conv3DNet:
    """A generator whose prompts and noise differ a lot, as if it had been trained."""
    generator = make_generator(torch.float32, **settings)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith(("bias", "noise_strength")) and "position" not in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=random)
        for mlp in (generator.decoder.sdf, generator.decoder.rgb):
            mlp[-1].get_parameter("weight").normal_(0, 0.1, generator=random)
    return generator.to(dtype)


def noise(generator: Conv3DNet, batch: int, dtype: torch.dtype = torch.float32, seed: int = 5) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(batch, generator.noise_dim, generator=random).to(dtype)


# --- layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_demodulated", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_modulated_convolution_equals_a_naive_loop(kernel: int, is_demodulated: bool) -> None:
    """Oracle: each scene has its own weights, scaled and divided by their norm, and a sum at each place."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 2, 3, 4, generator=random).double()
    weight = torch.randn(2, 3, kernel, kernel, kernel, generator=random).double()
    styles = torch.randn(2, 3, generator=random).double()
    found = modulated_conv3d(x, weight, styles, is_demodulated=is_demodulated)
    offsets = list(itertools.product(range(kernel), repeat=3))
    for b, o in itertools.product(range(2), range(2)):
        own = weight[o] * styles[b][:, None, None, None]
        if is_demodulated:
            own = own / own.square().sum().sqrt()
        for place in itertools.product(range(2), range(3), range(4)):
            expected = 0.0
            for offset in offsets:
                at = [p + k - kernel // 2 for p, k in zip(place, offset, strict=True)]
                if all(0 <= a < size for a, size in zip(at, (2, 3, 4), strict=True)):
                    expected += float(own[:, *offset] @ x[b, :, *at])
            assert float(found[b, o, *place]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_demodulated_convolution_does_not_depend_on_the_size_of_styles() -> None:
    x, weight = torch.randn(1, 3, 2, 2, 2).double(), torch.randn(2, 3, 3, 3, 3).double()
    styles = torch.randn(1, 3).double()
    torch.testing.assert_close(
        modulated_conv3d(x, weight, 10 * styles), modulated_conv3d(x, weight, styles), rtol=1e-6, atol=1e-8
    )


def test_layers_pass_gradcheck_where_they_are_cut_too() -> None:
    torch.manual_seed(0)
    layer = StyledConv(2, 2, 3, 4, is_doubling=True).double()
    with torch.no_grad():
        layer.noise_strength.fill_(0.5)
        layer.bias[0] = 300.0  # beyond the limit everywhere, and then without gradient
    x, style, amount = torch.randn(1, 2, 2, 2, 2), torch.randn(1, 3), torch.randn(1)
    inputs = [value.double().requires_grad_() for value in (x, style, amount)]
    assert float(layer(*inputs)[:, 0].detach().min()) == 256.0
    assert torch.autograd.gradcheck(layer, inputs)


def test_gradients_of_activations_are_exact_in_float64() -> None:
    """Slopes of 0.2 sqrt(2) and sqrt(2), or none beyond the limit, to the last digits."""
    layer = StyledConv(1, 1, 1, 3).double()
    with torch.no_grad():
        layer.weight.zero_()
    for bias, slope in ((-1.0, 0.2 * 2**0.5), (1.0, 2**0.5), (300.0, 0.0)):
        with torch.no_grad():
            layer.bias.fill_(bias)
        layer.bias.grad = None
        layer(
            torch.ones(1, 1, 3, 3, 3).double(), torch.ones(1, 1).double(), torch.zeros(1).double()
        ).sum().backward()
        assert layer.bias.grad is not None
        assert float(layer.bias.grad) == pytest.approx(27 * slope, rel=1e-14)


def test_dense_keeps_the_variance_at_any_width() -> None:
    torch.manual_seed(0)
    for width in (4, 1024):
        out = Dense(width, 512, is_activated=True)(torch.randn(512, width)).detach()
        assert float(out.square().mean()) == pytest.approx(1.04, abs=0.15)


# --- the generator -----------------------------------------------------------------------------------------


def test_initial_scene_is_a_grey_sphere_for_every_prompt_and_noise() -> None:
    torch.manual_seed(0)
    generator = Conv3DNet(condition_dim=6, sphere_radius=0.6)
    scene = generator(condition(3), noise(generator, 3))
    sdf, rgb = scene.query(points(3, 2000))
    torch.testing.assert_close(sdf, points(3, 2000).norm(dim=-1) - 0.6, atol=0.06, rtol=0)
    torch.testing.assert_close(rgb, torch.full_like(rgb, 0.5), atol=0.05, rtol=0)
    assert isinstance(scene, Scene)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_batch_of_two_equals_two_batches_of_one(dtype: torch.dtype, tolerance: float) -> None:
    generator = trained(dtype)
    z = noise(generator, 2, dtype)
    assert_a_batch_of_two_equals_two_batches_of_one(
        generator,
        lambda index: generator(part(condition(2, dtype), index), z[index]),
        dtype,
        tolerance,
        with_normal=dtype == torch.float64,
    )


def test_shared_points_and_rows_give_the_same_values_as_copies_and_the_batch() -> None:
    generator = trained(torch.float64)
    scene = generator(condition(3, torch.float64), noise(generator, 3, torch.float64))
    shared = points(1, 30, torch.float64).expand(3, -1, -1)
    sdf, rgb = scene.query(shared)
    rows = [scene.row(i).query(shared[i : i + 1]) for i in range(3)]
    for other_sdf, other_rgb in (
        scene.query(shared.contiguous()),
        [torch.cat(values) for values in zip(*rows, strict=True)],
    ):
        torch.testing.assert_close(sdf, other_sdf, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(rgb, other_rgb, rtol=1e-10, atol=1e-12)


def test_gradients_of_all_parameters_equal_finite_differences() -> None:
    generator = trained(torch.float64)
    given, z = condition(2, torch.float64), noise(generator, 2, torch.float64)
    assert_gradients_equal_finite_differences(generator, lambda: generator(given, z))


def test_every_parameter_gets_a_gradient() -> None:
    generator = make_generator()
    assert_every_parameter_gets_a_gradient(generator, generator(condition(2), noise(generator, 2)))


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    generator, given = trained(torch.float64), condition(2, torch.float64)
    z = noise(generator, 2, torch.float64)
    assert_equal_on("cuda", generator, lambda module, device: module(moved(given, device), z.to(device)))


def test_bfloat16_stays_within_two_hundredths_of_float32() -> None:
    """Under autocast: features (relative, L2) to 2 %, what they add to distances to 3 %, rgb to 1/100."""
    generator = trained()
    given, z, at = condition(2), noise(generator, 2), points(2, 500)
    exact = generator(given, z)
    with torch.autocast("cpu", torch.bfloat16):
        half = generator(given, z)
        sdf, rgb = half.query(at)
    assert relative(half.features.values.float(), exact.features.values) < 0.02
    sphere = at.norm(dim=-1) - 0.5
    assert float((exact.sdf(at) - sphere).detach().abs().max()) > 0.2
    assert relative(sdf.float() - sphere, exact.sdf(at) - sphere) < 0.03
    assert float((rgb.float() - exact.query(at)[1]).detach().abs().max()) < 0.01


def test_checkpointing_changes_neither_values_nor_gradients() -> None:
    results = []
    for gradient_checkpointing in (False, True):
        generator = trained(torch.float64, gradient_checkpointing=gradient_checkpointing).train()
        sdf = generator(condition(2, torch.float64), noise(generator, 2, torch.float64)).sdf(
            points(2, 50, torch.float64)
        )
        (sdf**2).sum().backward()
        results.append((sdf, gradients(generator)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_checkpointing_keeps_less_while_training_alone() -> None:
    def kept(*, is_training: bool, **settings: Any) -> int:
        generator = make_generator(resolution=16, **settings).train(is_training)
        return numbers_kept(lambda: generator(condition(2), noise(generator, 2)))

    plain = kept(is_training=True)
    assert kept(is_training=True, gradient_checkpointing=True) < plain / 4
    assert kept(is_training=False, gradient_checkpointing=True) == plain


def test_text_mapping_noise_and_layer_noise_each_change_the_scene() -> None:
    generator, at = trained(), points(1)
    given, z = part(condition(2), slice(0, 1)), noise(generator, 1)
    other_style, other_layer = z.clone(), z.clone()
    other_style[:, 0] += 1
    other_layer[:, -1] += 1
    values = [
        generator(*arguments).sdf(at)
        for arguments in (
            (given, z),
            (part(condition(2), slice(1, 2)), z),
            (given, other_style),
            (given, other_layer),
            (given, noise(generator, 1, seed=6)),
        )
    ]
    for one, other in itertools.combinations(values, 2):
        assert float((one - other).detach().abs().max()) > 1e-3


def test_styles_begin_around_one() -> None:
    """Karras et al. 2020: of the style 0 they are 1, of a normal one they have a deviation of 1."""
    torch.manual_seed(0)
    layer = StyledConv(64, 2, 256, 4)
    assert torch.equal(layer.style(torch.zeros(1, 256)), torch.ones(1, 64))
    assert float(layer.style(torch.randn(50, 256)).detach().std()) == pytest.approx(1.0, abs=0.1)


def test_layer_noise_is_one_field_times_a_number_and_at_first_does_nothing() -> None:
    torch.manual_seed(0)
    layer = StyledConv(2, 3, 4, 4).double()
    x, style = torch.randn(2, 2, 4, 4, 4).double(), torch.randn(2, 4).double()
    none, some = torch.zeros(2).double(), torch.tensor([2.0, -3.0]).double()
    assert torch.equal(layer(x, style, some), layer(x, style, none))
    with torch.no_grad():
        layer.noise_strength.fill_(0.5)
    convolved = modulated_conv3d(x, layer.weight, layer.style(style))
    expected = convolved + 0.5 * some[:, None, None, None, None] * layer.noise
    expected = torch.where(expected < 0, 0.2 * expected, expected) * 2**0.5
    torch.testing.assert_close(layer(x, style, some), expected)


def test_truncation_goes_from_the_mean_style_of_each_prompt_to_all_of_the_noise() -> None:
    generator, at = trained(torch.float64), points(2, 50, torch.float64)
    given = condition(2, torch.float64)
    one, other = (noise(generator, 2, torch.float64, seed) for seed in (5, 6))
    with pytest.raises(ValueError, match=r"truncation is 0\.5: there is no mean style yet"):
        generator(given, one, truncation=0.5)
    generator.prepare_export()
    ends = [generator(given, z, truncation=0.0).sdf(at) for z in (one, other)]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)
    assert float((ends[0][0] - ends[0][1]).detach().abs().max()) > 1e-3
    whole = generator(given, one).sdf(at)
    near, far = (relative(generator(given, one, truncation=t).sdf(at), whole) for t in (0.9, 0.1))
    assert 0 < near < far

    z = torch.randn(20_000, 5, generator=torch.Generator().manual_seed(7)).double()
    styles = generator.mapping(z, given.pooled[:1].expand(len(z), -1), 1.0)
    mean = generator.mapping(z[:1], given.pooled[:1], 0.0)[0]
    error = 5 * styles.std(0) / 10_000**0.5
    assert bool(((styles.mean(0) - mean).abs() < error).all())


def test_truncation_works_under_autocast() -> None:
    """The mapping network's products are then in bfloat16, the mean style is not."""
    generator, at = trained(), points(2)
    generator.prepare_export()
    given, z = condition(2), noise(generator, 2)
    with torch.autocast("cpu", torch.bfloat16):
        sdf = generator(given, z, truncation=0.5).sdf(at)
    exact = generator(given, z, truncation=0.5).sdf(at)
    assert relative(sdf.float(), exact) < 0.03


def test_the_mean_style_is_the_same_each_time_and_a_part_of_the_state() -> None:
    generator, loaded = trained(), trained()
    generator.prepare_export()
    loaded.prepare_export()
    assert torch.equal(generator.mapping.mean, loaded.mapping.mean) and bool(generator.mapping.mean.any())
    assert "mapping.mean" in generator.state_dict()


def test_config_rebuilds_the_generator() -> None:
    generator = trained(mapping_depth=3, background="none", resolution=16)
    loaded = generators.make("conv3d_net", generator.config)
    loaded.load_state_dict(generator.state_dict())
    z = noise(generator, 1)
    assert torch.equal(loaded(condition(1), z).sdf(points(1)), generator(condition(1), z).sdf(points(1)))
    assert generator.has_noise is True and generator.noise_dim == 5 + 5
    assert torch.equal(generator(condition(1), z).background(points(1)), torch.ones(1, 50, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"condition_dim": 0}, "condition_dim is 0"),
        ({"mlp_depth": 0}, "mlp_depth is 0"),
        ({"resolution": 48}, "resolution is 48: it must be a power of two, at least 8"),
        ({"resolution": 4}, "resolution is 4"),
        ({"channel_base": 7}, "channel_base is 7: it must be at least the resolution, 8"),
        ({"sphere_radius": 1.5}, r"sphere_radius is 1\.5.*inside the scene cube"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conv3DNet(**{"condition_dim": 6, **SMALL, **settings})


def test_missing_noise_and_other_shapes_are_refused() -> None:
    generator = make_generator()
    with pytest.raises(ValueError, match=r"z is missing: .* of shape \(1, 8\) \(batch, noise_dim\)"):
        generator(condition(1))
    with pytest.raises(ValueError, match=r"z has shape \(2, 8\)"):
        generator(condition(1), noise(generator, 2))
    other = GeneratorText(torch.zeros(1, 5), torch.zeros(1, 1, 5), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="text has 5 numbers, the generator was built for 6"):
        generator(other, noise(generator, 1))


# --- where it is used --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe() -> TextTo3D:
    pipe = tiny_pipeline()
    pipe.generator_name = "conv3d_net"
    pipe.generator = generators.make("conv3d_net", {"condition_dim": 16, **SMALL})
    with torch.no_grad():
        pipe.generator.get_submodule("decoder.sdf.2").get_parameter("weight").normal_(0, 0.1)
    return pipe


def test_an_asset_is_a_function_of_prompt_and_seed_whatever_its_company(pipe: TextTo3D) -> None:
    at = points(1)
    alone = pipe(PROMPT, seed=3).scene.sdf(at)
    assert torch.equal(pipe(["a blue car", PROMPT, "a red cat"], seed=3)[1].scene.sdf(at), alone)
    assert float((pipe(PROMPT, seed=4).scene.sdf(at) - alone).abs().max()) > 1e-3
    z = draw_noise(pipe.generator, 3, 20_000)
    assert z is not None and z.shape == (20_000, pipe.generator.noise_dim) and z.stride(0) == 0
    assert draw_noise(tiny_pipeline().generator, 3, 2) is None


def test_exported_generator_has_its_mean_style_and_gives_the_same_scenes(
    pipe: TextTo3D, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path / "export", dtype=torch.float32)
    loaded, at = TextTo3D.from_pretrained(tmp_path / "export", device="cpu"), points(1)
    for truncation in (1.0, 0.5):
        scenes = [each(PROMPT, seed=2, truncation=truncation).scene for each in (pipe, loaded)]
        torch.testing.assert_close(*(scene.sdf(at) for scene in scenes))
    typical = [loaded(PROMPT, seed=seed, truncation=0.0).scene.sdf(at) for seed in (1, 2)]
    torch.testing.assert_close(*typical)
    with pytest.raises(ValueError, match="truncation is 2: accepted is 0 to 1"):
        loaded(PROMPT, truncation=2)
    with pytest.raises(ValueError, match=r"truncation is 0\.5: this generator takes no noise"):
        tiny_pipeline()(PROMPT, truncation=0.5)


def test_training_draws_other_noise_for_each_sample_and_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    original = RenderedGenerator.forward

    def look(self: RenderedGenerator, batch: Any, *names: frozenset[str]) -> Any:
        handle = self.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
        try:
            return original(self, batch, *names)
        finally:
            handle.remove()

    monkeypatch.setattr(RenderedGenerator, "forward", look)
    architecture = {"generator__name": "conv3d_net", "generator__conv3d_net": SMALL}
    config = write_config(
        tmp_path, write_random_prior(tmp_path / "prior"), training__max_steps=2, **architecture
    )
    assert main(["--config", str(config)]) == 0
    first, second = (z[:, 0].tolist() for z in seen)
    assert len({*first, *second}) == 8
    weights = load_file(tmp_path / "run" / "generator" / "generator" / "model.safetensors")
    assert bool(weights["mapping.mean"].any())
    loaded = TextTo3D.from_pretrained(tmp_path / "run", device="cpu")
    assert loaded.has_noise and loaded("a red cat", seed=1).scene.sdf(points(1)).isfinite().all()


def test_the_doctor_counts_volumes_as_they_are_made() -> None:
    """Beside a count of the whole generator on the CPU."""
    names = ("resolution=16", "max_channels=32", "channel_base=256")
    sizes = [f"generator.conv3d_net.{name}" for name in names]
    small = [
        "renderer.image_size=8",
        "renderer.volume.lattice_resolution=8",
        "regularizers.eikonal.num_points=32",
    ]
    config = load_config(None, ["generator.name=conv3d_net", *sizes, *small])
    settings = config.generator.conv3d_net.model_dump() | {"condition_dim": 8}
    expected = networks._passes(config, 3, 8, settings)
    found = networks.RenderCost(config, 3)
    assert found.flops == pytest.approx(expected[0], rel=0.05)
    assert found.kept_bytes == pytest.approx(expected[1], rel=0.15)
    assert found.peak_bytes == pytest.approx(expected[2], rel=0.2)
