"""How a prior's networks are run, on small random ones: the same results, in less memory, or an error."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scaledreamer import priors
from scaledreamer.accounting import count
from scaledreamer.assemble import make_judges
from scaledreamer.config import Config, PriorSettings, WeightSettings
from scaledreamer.contracts import PriorInputs
from scaledreamer.priors import latent_diffusion
from scaledreamer.priors.cost import StepInputs
from scaledreamer.priors.full_size import assemble, fill_with_noise, full_size
from scaledreamer.priors.running import GIB, Parts, check_compiler, parts_that_fit, split
from scaledreamer.priors.sdxl import SDXLPrior
from tests.support.random_models import save_sdxl

PROMPTS = ["a red cat", "a blue car", "a green cube", "a white dog", "a tall tree"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sdxl(tmp_path_factory.mktemp("sdxl"), "v_prediction")


def large_prior(device: str = "cpu", **options: Any) -> Any:
    """Enough channels and pixels for activations to be what memory goes to."""
    torch.manual_seed(0)
    networks = full_size("sd21", small=True, image_size=128)
    networks |= {part: fill_with_noise(networks[part], device) for part in ("unet", "vae")}
    prior = assemble("sd21", networks)
    prior.run_as(**options)
    return prior


def results(prior: Any, count: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(prior.device)

    size, latent = prior.image_size, (count, *prior.latent_shape)
    images = torch.rand(count, 3, size, size, generator=generator).to(prior.device).requires_grad_()
    noise, direction, x_t, t = (
        normal(*latent),
        normal(*latent),
        normal(*latent),
        torch.linspace(0.1, 0.9, count, device=prior.device),
    )
    latents = prior.encode_image(images, noise)
    (gradient,) = torch.autograd.grad(latents, images, direction)
    inputs = prior.blank_inputs(count)
    return {
        "latents": latents.detach(),
        "gradient": gradient,
        "no graph": prior.encode_image(images.detach()),
        "eps": prior.predict_noise(x_t, t, inputs),
    }


def assert_same(mine: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, value in other.items():
        assert value.norm() > 1e-3
        error = (mine[name] - value).norm() / value.norm()
        assert error < 1e-5, f"{name}: {error:.1e}"


# --- parts -------------------------------------------------------------------------------------------------


def test_parts_are_almost_equal_and_cover_all():
    assert split(7, None) == [slice(0, 7)] and split(7, 10) == [slice(0, 7)]
    assert split(7, 3) == [slice(0, 2), slice(2, 4), slice(4, 7)]
    assert split(4, 1) == [slice(i, i + 1) for i in range(4)]


def test_slicing_equals_the_undivided_prior(folder: Path):
    sliced = SDXLPrior.from_pretrained(folder)
    sliced.run_as(vae_slicing=True)
    assert_same(results(sliced), results(SDXLPrior.from_pretrained(folder)))


def test_slicing_holds_the_graph_of_one_image():
    whole, sliced = (StepInputs(large_prior(vae_slicing=it), 4).encode_with_gradient for it in (False, True))
    one = StepInputs(large_prior(), 1).encode_with_gradient
    assert count(sliced).peak_bytes < 1.1 * count(one).peak_bytes < 0.35 * count(whole).peak_bytes


@pytest.mark.slow
@pytest.mark.parametrize("images_that_fit", [1, 2, 3])
def test_a_memory_budget_is_kept_with_the_same_results(images_that_fit: int):
    plain = large_prior()
    each = count(StepInputs(plain, 1).encode_with_gradient).peak_bytes
    budget = images_that_fit * each * 1.05
    divided = large_prior(memory_gib=budget / GIB)
    assert divided._parts.encode == images_that_fit
    assert_same(results(divided), results(plain))
    step = StepInputs(divided, 6)
    assert count(step.step).peak_bytes < budget + 4e6 < count(StepInputs(plain, 6).step).peak_bytes
    assert count(step.predict_noise).peak_bytes < budget


def test_a_small_budget_divides_predictions_too():
    plain = large_prior()
    parts = parts_that_fit(plain.on_meta(), 1.0, "key")
    assert parts.encode is not None and parts.predict is not None and parts.kept is not None
    assert parts.kept <= parts.encode < parts.predict
    plain._parts = Parts(predict=2)
    assert_same(results(plain), results(large_prior()))


def test_what_fits_is_encoded_once():
    prior = large_prior(memory_gib=8)
    step, plain = StepInputs(prior, 2), StepInputs(large_prior(), 2)
    assert count(step.step).flops == count(plain.step).flops


def test_a_budget_below_one_image_is_refused_with_the_number():
    message = (
        r"^priors\.1\.sdxl\.memory_gib: got 0\.001, and one image takes 0\.\d+ GiB .* at least (0\.\d+),"
    )
    with pytest.raises(ValueError, match=message) as caught:
        large_prior(memory_gib=0.001, key="priors.1.sdxl")
    least = float(str(caught.value).split("at least ")[1].split(",")[0])
    large_prior(memory_gib=least)
    with pytest.raises(ValueError, match="memory_gib"):
        large_prior(memory_gib=least * 0.9)


def test_tiles_take_less_memory_and_are_near():
    plain, tiled = large_prior(), large_prior(vae_tiling=True)
    peaks = [count(StepInputs(prior, 2).encode_with_gradient).peak_bytes for prior in (plain, tiled)]
    assert peaks[1] < 0.4 * peaks[0]
    mine, other = results(tiled), results(plain)
    assert mine["gradient"].isfinite().all()
    for name in ("latents", "gradient"):
        a, b = mine[name].flatten(), other[name].flatten()
        assert torch.cosine_similarity(a, b, dim=0) > 0.5
        assert not torch.equal(a, b)
    assert torch.equal(mine["eps"], other["eps"])


def test_gradient_of_tiles_is_their_own():
    prior = large_prior(vae_tiling=True)
    images = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    direction = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(1))
    (mine,) = torch.autograd.grad(prior.encode_image(images.requires_grad_()), images, direction)
    prior._autoencoder.encoder = prior._autoencoder.encoder.wrapped  # diffusers' own way
    (other,) = torch.autograd.grad(prior.encode_image(images), images, direction)
    torch.testing.assert_close(mine, other)


# --- compile -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"vae_slicing": True}, {"vae_tiling": True}])
def test_compiled_networks_give_the_same(options: dict[str, bool]):
    compiled = large_prior(compile=True, backend="eager", **options)
    assert compiled._unet._compiled_call_impl is not None
    assert_same(results(compiled), results(large_prior(**options)))


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    message = (
        r"^priors\.0\.tinyworld\.compile: needs a compiler, and none of g\+\+, clang\+\+, c\+\+ is there"
    )
    with pytest.raises(ValueError, match=message):
        make_judges(Config(priors=[PriorSettings(tinyworld={"compile": True})]), torch.device("cpu"), 10)
    with pytest.raises(ValueError, match=r"^x: needs a compiler, and none of gcc, clang, cc is there"):
        check_compiler("x", torch.device("cuda"))
    check_compiler("x", torch.device("cpu"), backend="eager")


def test_cuda_graphs_need_a_gpu():
    with pytest.raises(ValueError, match=r"^priors\.N\.tinyworld\.cuda_graphs: needs a GPU, .* on cpu"):
        priors.make(PriorSettings(tinyworld={"compile": True, "cuda_graphs": True}), WeightSettings(), "cpu")


@pytest.mark.gpu
def test_replayed_networks_give_the_same():
    graphs = large_prior("cuda", compile=True, cuda_graphs=True)
    plain = results(large_prior("cuda"))
    for _ in range(4):  # warm, recorded, replayed
        for name, value in results(graphs).items():
            assert (value - plain[name]).norm() < 1e-3 * plain[name].norm(), name


# --- precision ---------------------------------------------------------------------------------------------


def test_full_precision_is_refused_on_a_gpu(folder: Path):
    config = PriorSettings(name="sdxl", model=str(folder), sdxl={"dtype": "float32"})
    with pytest.raises(ValueError, match=r"^priors\.0\.sdxl\.dtype: got 'float32' on a GPU"):
        make_judges(Config(priors=[config]), torch.device("cuda"), 10)
    for name, dtype, device in (
        ("tinyworld", torch.float32, "cuda:1"),
        ("sdxl", torch.bfloat16, "cuda"),
        ("stable_diffusion", torch.float32, "cpu"),
    ):
        latent_diffusion.check_dtype(name, dtype, device, "key")
    with pytest.raises(ValueError, match=r"^key\.dtype: got 'float32' on a GPU"):
        latent_diffusion.check_dtype("stable_diffusion", torch.float32, "cuda:0", "key")


def test_overflow_of_float16_is_explained_when_asked(folder: Path):
    prior = SDXLPrior.from_pretrained(folder, dtype=torch.float16)
    prior.run_as(key="priors.0.sdxl")
    prior._autoencoder.half()
    images = torch.rand(2, 3, 16, 16)
    assert prior.encode_image(images).isfinite().all() and prior.why_not_finite() is None
    prior.encode_image(images * float("nan"))
    assert prior.why_not_finite() is None, "not finite before this prior"
    with torch.no_grad():
        prior._autoencoder.encoder.conv_out.weight.mul_(60_000)
        prior._autoencoder.quant_conv.weight.mul_(60_000)
    assert not prior.encode_image(images).isfinite().all()
    prior.encode_image(images[:1])
    said = prior.why_not_finite()
    assert said is not None and said.startswith("the autoencoder's latents are beyond float16's range")
    assert "set priors.0.sdxl.dtype=bfloat16, or give" in said and "madebyollin/sdxl-vae-fp16-fix" in said
    assert prior.why_not_finite() is None, "told once"
    with torch.no_grad():
        prior._unet.conv_out.weight.fill_(60_000)
    inputs = PriorInputs(prior.encode_text(["a cat"]))
    prior.predict_noise(torch.randn(1, 4, 8, 8), torch.tensor([0.5]), inputs)
    assert (
        prior.why_not_finite()
        == "the UNet's output is beyond float16's range: set priors.0.sdxl.dtype=bfloat16"
    )


# --- sizes and texts ---------------------------------------------------------------------------------------


def test_images_of_another_size_are_refused(folder: Path):
    prior = SDXLPrior.from_pretrained(folder)
    for height, width in ((32, 32), (16, 24), (17, 17)):
        with pytest.raises(ValueError, match=rf"^images: got {height} x {width} pixels; .* judges 16 x 16"):
            prior.encode_image(torch.rand(1, 3, height, width))
    with pytest.raises(
        ValueError, match=r"^images: got 16 x 17 pixels; the autoencoder takes multiples of 2"
    ):
        latent_diffusion.encode_image(prior._autoencoder, torch.rand(1, 3, 16, 17))


@pytest.mark.parametrize("name", ["sdxl", "tinyworld"])
def test_a_freed_text_encoder_is_gone_and_missed(folder: Path, name: str):
    model = str(folder) if name == "sdxl" else None
    config = PriorSettings(name=name, model=model, sdxl={"dtype": "float32"})
    (judge,) = make_judges(Config(priors=[config]), torch.device("cpu"), 10)
    prior: Any = judge.prior
    before = judge.texts.encode(["a red cat", ""])
    assert "text_encoder" in prior.networks()
    prior.drop_text_encoder()
    assert list(prior.networks()) == ["unet", "vae"]
    assert torch.equal(judge.texts.encode(["a red cat", ""]).tokens, before.tokens)
    with pytest.raises(
        ValueError, match=rf"^priors\.0\.{name}\.drop_text_encoder: .* 'a dog' was not encoded"
    ):
        judge.texts.encode(["a dog"])
