"""Triplane-Transformer: equals naive attention, sees all text and no padding, treats prompts apart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from scaledreamer import generators
from scaledreamer.config import GeneratorSettings, load_config
from scaledreamer.contracts import GeneratorText, Scene
from scaledreamer.exported import start_from
from scaledreamer.generators.triplane_transformer import TriplaneTransformer
from scaledreamer.pipeline import TextTo3D
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
from tests.support.tiny_export import tiny_pipeline

SMALL: dict[str, Any] = {
    "width": 16,
    "num_layers": 2,
    "num_heads": 2,
    "token_resolution": 3,
    "plane_features": 4,
    "mlp_width": 8,
}
DIM = 6


def make_generator(
    dtype: torch.dtype = torch.float32,
    products: Literal["float32", "bfloat16"] = "float32",
    **settings: Any,
) -> TriplaneTransformer:
    torch.manual_seed(0)
    return TriplaneTransformer(token_dim=DIM, **{**SMALL, **settings}, dtype=products).to(dtype)


def trained(dtype: torch.dtype = torch.float32, **settings: Any) -> TriplaneTransformer:
    """A generator whose prompts differ a lot, as if it had been trained."""
    generator = make_generator(torch.float32, **settings)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.startswith("decoder") or name.endswith("bias"):
                parameter.normal_(0, 0.4, generator=random)
    return generator.to(dtype)


def condition(batch: int, dtype: torch.dtype = torch.float32, length: int = 5) -> GeneratorText:
    """Prompts of 2, 3, 4, ... tokens, padded with numbers that must not matter."""
    random = torch.Generator().manual_seed(2)
    tokens = torch.randn(batch, length, DIM, generator=random).to(dtype)
    mask = torch.arange(length) < torch.arange(2, batch + 2)[:, None]
    return GeneratorText(torch.zeros(batch, DIM, dtype=dtype), tokens, mask)


def test_initial_scene_is_a_grey_sphere_for_every_prompt() -> None:
    torch.manual_seed(0)
    scene = TriplaneTransformer(token_dim=DIM, sphere_radius=0.6)(condition(3))
    assert isinstance(scene, Scene)
    at = points(3, 2000)
    sdf, rgb = scene.query(at)
    torch.testing.assert_close(sdf, at.norm(dim=-1) - 0.6, atol=0.1, rtol=0)
    assert float((sdf.detach() - at.norm(dim=-1) + 0.6).square().mean().sqrt()) < 0.02
    torch.testing.assert_close(rgb, torch.full_like(rgb, 0.5), atol=0.1, rtol=0)


@pytest.mark.parametrize("num_layers", [1, 8])
def test_activations_begin_with_a_deviation_near_one_at_any_depth(num_layers: int) -> None:
    """Positions have a variance of 1, to which all layers together add less than 1; features have 1."""
    torch.manual_seed(0)
    generator = TriplaneTransformer(token_dim=DIM, width=64, num_heads=2, num_layers=num_layers)
    seen: list[Tensor] = []
    generator.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    planes = generator.planes(condition(2)).detach()
    assert 1.05 < float(seen[0].var()) < 2
    assert float(planes.std()) == pytest.approx(1.0, abs=0.1)


def test_default_sizes_fit_into_six_megabytes() -> None:
    settings = generators.constructor_settings(
        GeneratorSettings(name="triplane_transformer"), condition_dim=128
    )
    generator = generators.make("triplane_transformer", settings)
    assert sum(p.numel() for p in generator.parameters()) < 3_000_000


def test_published_sizes_are_settings() -> None:
    """12 layers of width 768 on text of width 1024: 85 M parameters in self-attention and MLPs, 31 M in
    cross-attention, 2.4 M positions."""
    sizes = {"width": 768, "num_layers": 12, "num_heads": 16, "token_resolution": 32}
    decoder: dict[str, Any] = {
        "plane_features": 32,
        "mlp_width": 64,
        "mlp_depth": 2,
        "background": "none",
        "coordinates": False,
    }
    with torch.device("meta"):
        generator = TriplaneTransformer(token_dim=1024, **sizes, **decoder)
    w, t = 768, 1024
    layer = (4 * w * w + w) + (2 * w * w + 2 * w * t + w) + (8 * w * w + 5 * w) + 6 * w
    mlps = 2 * (96 * 64 + 64 + 64 * 64 + 64) + 4 * (64 + 1)
    total = 12 * layer + 3 * 32**2 * w + 2 * w + w * 32 * 4 + mlps
    assert sum(p.numel() for p in generator.parameters()) == total


def naive_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Softmax of scaled products, head by head, of "n d"."""
    parts = []
    for q, k, v in zip(*(x.chunk(num_heads, -1) for x in (query, key, value)), strict=True):
        weights = (q @ k.T / math.sqrt(q.shape[1])).exp()
        parts.append((weights / weights.sum(1, keepdim=True)) @ v)
    return torch.cat(parts, -1)


def test_planes_equal_a_naive_transformer() -> None:
    """Prompt by prompt, without the padding, written from the papers' formulas."""
    generator = trained(torch.float64)
    given = condition(2, torch.float64)
    planes = generator.planes(given)
    state = dict(generator.named_parameters())

    def norm(x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    for b in range(2):
        text = given.tokens[b, given.mask[b]]
        x = state["positions"]
        for number in range(2):

            def linear(x: Tensor, name: str, number: int = number) -> Tensor:
                y = x @ state[f"layers.{number}.{name}.weight"].T
                bias = state.get(f"layers.{number}.{name}.bias")
                return y if bias is None else y + bias

            query = linear(norm(x, f"layers.{number}.cross_norm"), "cross_query")
            key, value = linear(text, "cross_key_value").chunk(2, -1)
            x = x + linear(naive_attention(query, key, value, 2), "cross_out")
            mixed = linear(norm(x, f"layers.{number}.self_norm"), "self_query_key_value")
            x = x + linear(naive_attention(*mixed.chunk(3, -1), 2), "self_out")
            hidden = linear(norm(x, f"layers.{number}.mlp_norm"), "mlp_in")
            gelu = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
            x = x + linear(gelu, "mlp_out")
        x = norm(x, "norm")
        kernel = state["deconvolution.weight"]  # "width c 2 2"
        expected = torch.zeros(3, 4, 6, 6, dtype=torch.float64)
        for plane in range(3):
            for j in range(3):
                for i in range(3):
                    block = torch.einsum("d,dcuv->cuv", x[9 * plane + 3 * j + i], kernel)
                    expected[plane, :, 2 * j : 2 * j + 2, 2 * i : 2 * i + 2] = block
        torch.testing.assert_close(planes[b], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_batch_of_two_equals_two_batches_of_one(dtype: torch.dtype, tolerance: float) -> None:
    generator, given = trained(dtype), condition(2, dtype)
    assert_a_batch_of_two_equals_two_batches_of_one(
        generator, lambda index: generator(part(given, index)), dtype, tolerance, with_normal=False
    )


def test_padding_does_not_matter_and_every_token_does() -> None:
    generator, given = trained(torch.float64), condition(2, torch.float64)
    planes = generator.planes(given)
    longer = torch.cat([given.tokens, torch.full((2, 4, DIM), 7.0, dtype=torch.float64)], 1)
    longer_mask = torch.cat([given.mask, torch.zeros(2, 4, dtype=torch.bool)], 1)
    other = generator.planes(GeneratorText(given.pooled, longer, longer_mask))
    torch.testing.assert_close(other, planes, rtol=1e-10, atol=1e-10)
    noisy = given.tokens + 3.0 * ~given.mask[..., None]
    torch.testing.assert_close(generator.planes(given._replace(tokens=noisy)), planes)
    for token in range(2):
        changed = given.tokens.clone()
        changed[0, token] += 1.0
        moved = (generator.planes(given._replace(tokens=changed)) - planes).detach()
        assert float(moved[0].abs().max()) > 1e-3 and float(moved[1].abs().max()) == 0.0


def test_padding_is_seen_where_masks_are_switched_off() -> None:
    given = condition(1)
    unmasked, masked = (trained(mask_padding=flag) for flag in (False, True))
    whole = given._replace(mask=torch.ones_like(given.mask))
    assert torch.equal(unmasked.planes(given), masked.planes(whole))
    assert not torch.allclose(unmasked.planes(given), masked.planes(given))


def test_the_order_of_tokens_and_of_prompts_is_that_of_the_input() -> None:
    """Text attention is a set's: what order means, the text encoder has put into the vectors."""
    generator, given = trained(torch.float64), condition(3, torch.float64)
    turned = GeneratorText(*(values.flip(0) for values in given))
    torch.testing.assert_close(generator.planes(turned).flip(0), generator.planes(given))
    reversed_text = given._replace(tokens=given.tokens.flip(1), mask=given.mask.flip(1))
    torch.testing.assert_close(generator.planes(reversed_text), generator.planes(given))


def test_a_prompt_without_text_is_finite() -> None:
    given = condition(2)
    empty = given._replace(mask=given.mask & torch.tensor([[False], [True]]))
    generator = trained()
    planes = generator.planes(empty)
    planes.square().sum().backward()
    assert planes.isfinite().all() and gradients(generator).isfinite().all()
    torch.testing.assert_close(planes[1:], generator.planes(given)[1:])


def test_gradients_equal_finite_differences() -> None:
    generator, given = trained(torch.float64), condition(2, torch.float64)
    assert_gradients_equal_finite_differences(generator, lambda: generator(given))


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    given = condition(2, torch.float64)
    generator = trained(torch.float64)
    assert_equal_on("cuda", generator, lambda module, device: module(moved(given, device)))


@pytest.mark.gpu
def test_a_prompt_without_text_is_finite_on_a_gpu() -> None:
    """There attention has kernels of its own."""
    given = condition(2)
    empty = given._replace(mask=given.mask & torch.tensor([[False], [True]]))
    for products in ("float32", "bfloat16"):
        planes = trained(products=products).cuda().planes(moved(empty, "cuda"))
        expected = trained(products=products).planes(empty)
        assert relative(planes.cpu(), expected) < 0.02


def test_checkpointing_changes_no_value_and_no_gradient() -> None:
    results = []
    for flag in (False, True):
        generator = trained(gradient_checkpointing=flag)
        planes = generator.planes(condition(2))
        planes.square().sum().backward()
        results.append((planes, gradients(generator)))
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


def test_checkpointing_keeps_less() -> None:
    def kept(*, is_checkpointed: bool) -> int:
        generator = make_generator(gradient_checkpointing=is_checkpointed, num_layers=6)
        return numbers_kept(lambda: generator.planes(condition(2)))

    assert kept(is_checkpointed=True) < kept(is_checkpointed=False) / 4


def test_bfloat16_is_close_to_float32_and_planes_are_float32() -> None:
    """Bounds: planes within 2 %, their gradients within 5 %, relative L2; 8 bits of mantissa, 2 layers."""
    results: list[tuple[Tensor, Tensor]] = []
    for products in ("float32", "bfloat16"):
        generator = trained(products=products)
        planes = generator.planes(condition(3))
        planes.pow(3).sum().backward()
        assert planes.dtype == torch.float32
        results.append((planes, gradients(generator)))
    assert 0 < relative(results[1][0], results[0][0]) < 0.02
    assert 0 < relative(results[1][1], results[0][1]) < 0.05


def test_precision_is_its_own_whatever_surrounds_it() -> None:
    """Under autocast of others: its products are in what `dtype` says, norm and deconvolution in float32."""
    for products in ("float32", "bfloat16"):
        generator, given = trained(products=products), condition(3)
        with torch.autocast("cpu", torch.bfloat16):
            planes = generator.planes(given)
        assert torch.equal(planes, generator.planes(given))


def test_every_parameter_gets_a_gradient() -> None:
    generator = make_generator()
    assert_every_parameter_gets_a_gradient(generator, generator(condition(2)))


def test_config_rebuilds_the_generator() -> None:
    generator = trained(mlp_depth=2, background="none")
    loaded = TriplaneTransformer(**generator.config)
    loaded.load_state_dict(generator.state_dict())
    assert torch.equal(loaded(condition(1)).sdf(points(1)), generator(condition(1)).sdf(points(1)))
    assert generator.has_noise is False


def test_a_pipeline_reads_what_it_wrote(tmp_path: Path) -> None:
    base = tiny_pipeline()
    torch.manual_seed(0)
    generator = TriplaneTransformer(token_dim=16, **SMALL)
    pipe = TextTo3D(base.conditioner, generator, generator_name="triplane_transformer")
    pipe.save_pretrained(tmp_path / "export", dtype=torch.float32)
    loaded = TextTo3D.from_pretrained(tmp_path / "export", device="cpu")
    at = points(1)
    scenes = [each("a red cube").scene for each in (pipe, loaded)]
    torch.testing.assert_close(scenes[0].sdf(at), scenes[1].sdf(at))


def test_how_a_generator_runs_may_differ_from_where_it_starts(tmp_path: Path) -> None:
    """A run in bfloat16 may go on from weights of one in float32, but not from those of other sizes."""
    generator = trained()
    base = tiny_pipeline()
    name, changed = "triplane_transformer", trained(products="bfloat16")
    TextTo3D(base.conditioner, generator, generator_name=name).save_pretrained(tmp_path / "g")
    start_from(changed, GeneratorSettings(name="triplane_transformer"), str(tmp_path / "g"))
    torch.testing.assert_close(changed.positions, generator.positions, rtol=1e-3, atol=1e-3)
    larger = make_generator(num_layers=3)
    with pytest.raises(ValueError, match=r"generator.start: .* has num_layers 2, this configuration 3"):
        start_from(larger, GeneratorSettings(name="triplane_transformer"), str(tmp_path / "g"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_dim": 0}, "token_dim is 0"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"num_heads": 3}, "width is 16 and num_heads 3.*give a multiple of 3, for example 15"),
        ({"sphere_radius": 1.5}, "sphere_radius is 1.5.*inside the scene cube"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    given = {"token_dim": DIM, **SMALL, **settings}
    with pytest.raises(ValueError, match=message):
        generators.make("triplane_transformer", given)


def test_heads_that_cannot_share_the_width_are_refused_by_the_configuration() -> None:
    message = "generator.triplane_transformer.width: got 160, which 7 heads .* give a multiple of 7"
    with pytest.raises(ValueError, match=message):
        load_config(None, ["generator.triplane_transformer.num_heads=7"])


def test_noise_and_tokens_of_another_length_are_refused() -> None:
    generator = make_generator()
    with pytest.raises(ValueError, match="takes no noise z"):
        generator(condition(1), torch.zeros(1, 4))
    other = GeneratorText(torch.zeros(1, 5), torch.zeros(1, 1, 5), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="tokens have 5 numbers, the generator was built for 6"):
        generator(other)
