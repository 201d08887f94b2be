"""SDXL as a prior, on small random pipelines in diffusers' layout, against diffusers' own pipeline."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (diffusers declares the types of its constructors and loaders too narrowly)

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scaledreamer import priors
from scaledreamer.assemble import make_judges
from scaledreamer.cli.train import main
from scaledreamer.config import Config, PriorSettings, WeightSettings
from scaledreamer.contracts import PriorInputs, PriorText
from scaledreamer.priors.conditioning import Texts
from scaledreamer.priors.sdxl import LAYOUT, SDXLPrior
from scaledreamer.priors.stable_diffusion import StableDiffusionPrior
from scaledreamer.prompts.encodings import EncodingCache
from tests.support.judges import distill, make_judge
from tests.support.random_models import save_sdxl
from tests.support.runs import write_config

PROMPTS = ["a red cat", "a blue car, side view", " ".join(["a green cube"] * 10)]
"""The last is too long and is cut."""


def pipeline(folder: Path) -> Any:
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sdxl(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def prior(folder: Path) -> SDXLPrior:
    return SDXLPrior.from_pretrained(folder)


@pytest.fixture
def copy(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A pipeline that a test may spoil."""
    kept = tmp_path_factory.getbasetemp() / "spoiled"
    if not kept.exists():
        save_sdxl(kept)
    return Path(shutil.copytree(kept, tmp_path / "copy"))


def assert_close(mine: Tensor | None, other: Tensor) -> None:
    assert mine is not None
    torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


# --- the same as diffusers ---------------------------------------------------------------------------------


def test_sizes_are_read_from_the_networks(prior: SDXLPrior) -> None:
    assert (prior.image_size, prior.latent_shape, prior.num_views) == (16, (4, 8, 8), 1)


def test_text_is_encoded_as_by_diffusers_pipeline(prior: SDXLPrior, folder: Path) -> None:
    tokens, null_tokens, pooled, null_pooled = pipeline(folder).encode_prompt(PROMPTS)
    mine, null = prior.encode_text(PROMPTS), prior.encode_text([""] * 3)
    assert mine.tokens.shape == (3, 16, 24) and mine.pooled is not None and mine.pooled.shape == (3, 12)
    assert_close(mine.tokens, tokens)
    assert_close(mine.pooled, pooled)
    assert_close(null.tokens, null_tokens)
    assert_close(null.pooled, null_pooled)
    assert not null.tokens.any(), "force_zeros_for_empty_prompt is diffusers' default"
    mixed = prior.encode_text([PROMPTS[0], "", PROMPTS[1]])
    assert_close(mixed.tokens, torch.stack([tokens[0], null_tokens[0], tokens[1]]))
    assert_close(mixed.pooled, torch.stack([pooled[0], null_pooled[0], pooled[1]]))


def test_empty_prompt_is_encoded_where_the_pipeline_does_not_force_zeros(tmp_path: Path) -> None:
    save_sdxl(tmp_path, force_zeros_for_empty_prompt=False)
    _, tokens, _, pooled = pipeline(tmp_path).encode_prompt(["a cat"])
    null = SDXLPrior.from_pretrained(tmp_path).encode_text([""])
    assert tokens.any() and pooled.any()
    assert_close(null.tokens, tokens)
    assert_close(null.pooled, pooled)


def test_network_is_called_as_by_diffusers_pipeline(prior: SDXLPrior, folder: Path) -> None:
    pipe, x_t = pipeline(folder), torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    tokens, _, pooled, _ = pipe.encode_prompt(PROMPTS)
    sizes = (16, 16)
    time_ids = pipe._get_add_time_ids(sizes, (0, 0), sizes, tokens.dtype, text_encoder_projection_dim=12)
    added = {"text_embeds": pooled, "time_ids": time_ids.repeat(3, 1)}
    for step in (10, 500, 990):
        with torch.no_grad():
            output = pipe.unet(x_t, step, tokens, added_cond_kwargs=added).sample
        alpha_bar = pipe.scheduler.alphas_cumprod[step]
        if pipe.scheduler.config.prediction_type == "v_prediction":
            output = alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * x_t
        t = torch.full((3,), step / 1000)
        assert_close(prior.predict_noise(x_t, t, PriorInputs(prior.encode_text(PROMPTS))), output)
        assert_close(prior.alpha(t), alpha_bar.sqrt().expand(3))


def test_added_conditions_reach_the_network(prior: SDXLPrior) -> None:
    text, x_t, t = prior.encode_text(PROMPTS[:1]), torch.randn(1, 4, 8, 8), torch.tensor([0.4])
    assert text.pooled is not None
    eps = prior.predict_noise(x_t, t, PriorInputs(text))
    other = prior.predict_noise(x_t, t, PriorInputs(PriorText(text.tokens, text.pooled + 1)))
    assert (eps - other).abs().max() > 1e-3


@pytest.mark.parametrize("options", [{}, {"latents_mean": [0.1, -0.2, 0.3, 0], "latents_std": [2, 1, 3, 4]}])
def test_encode_image_is_the_autoencoders_scaled(copy: Path, options: dict[str, list[float]]) -> None:
    change_json(copy / "vae" / "config.json", **options)
    prior, images, noise = SDXLPrior.from_pretrained(copy), torch.rand(2, 3, 16, 16), torch.randn(2, 4, 8, 8)
    posterior = pipeline(copy).vae.encode(images * 2 - 1).latent_dist
    mean = torch.tensor(options.get("latents_mean", [0.0])).view(1, -1, 1, 1)
    std = torch.tensor(options.get("latents_std", [1.0])).view(1, -1, 1, 1)
    assert_close(prior.encode_image(images), (posterior.mean - mean) * 0.13025 / std)
    sample = posterior.mean + posterior.std * noise
    assert_close(prior.encode_image(images, noise), (sample - mean) * 0.13025 / std)
    with torch.no_grad():
        decoded = (pipeline(copy).vae.decode(posterior.mean).sample / 2 + 0.5).clamp(0, 1)
    assert_close(prior.decode_latents(prior.encode_image(images)), decoded)


def test_gradient_to_the_image_is_the_autoencoders(prior: SDXLPrior, folder: Path) -> None:
    images, direction = torch.rand(1, 3, 16, 16, requires_grad=True), torch.randn(1, 4, 8, 8)
    (mine,) = torch.autograd.grad(prior.encode_image(images), images, direction)
    theirs = pipeline(folder).vae.encode(images * 2 - 1).latent_dist.mean * 0.13025
    (other,) = torch.autograd.grad(theirs, images, direction)
    assert other.norm() > 1e-3
    assert_close(mine, other)


# --- the contract ------------------------------------------------------------------------------------------


class FixedOutput(torch.nn.Module):
    """A UNet whose output is what it is given."""

    def __init__(self, unet: Any, output: Tensor) -> None:
        super().__init__()
        self.config, self.device, self.dtype, self.add_embedding = (
            unet.config,
            unet.device,
            unet.dtype,
            unet.add_embedding,
        )
        self.output = output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return type("Output", (), {"sample": self.output})()


def test_a_network_of_v_and_one_of_epsilon_give_the_same_epsilon(folder: Path) -> None:
    pipe, text = pipeline(folder), PriorText(torch.zeros(2, 16, 24), torch.zeros(2, 12))
    clean, noise, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([0.1, 0.7])
    alpha_bar = pipe.scheduler.alphas_cumprod
    alpha, sigma = (x[(t * 1000).round().long()].sqrt().view(2, 1, 1, 1) for x in (alpha_bar, 1 - alpha_bar))
    encoders = (pipe.text_encoder, pipe.tokenizer, pipe.text_encoder_2, pipe.tokenizer_2)
    for kind, output in (("epsilon", noise), ("v_prediction", alpha * noise - sigma * clean)):
        prior = SDXLPrior(pipe.vae, FixedOutput(pipe.unet, output), *encoders, alpha_bar, kind)
        assert_close(prior.predict_noise(alpha * clean + sigma * noise, t, PriorInputs(text)), noise)


def test_a_batch_of_two_equals_two_batches_of_one(prior: SDXLPrior) -> None:
    text, x_t, t = prior.encode_text(PROMPTS[:2]), torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.8])
    images = torch.rand(2, 3, 16, 16)
    eps, latents = prior.predict_noise(x_t, t, PriorInputs(text)), prior.encode_image(images)
    for i in range(2):
        one = slice(i, i + 1)
        alone = prior.encode_text(PROMPTS[one])
        assert text.pooled is not None
        assert_close(alone.tokens, text.tokens[one])
        assert_close(alone.pooled, text.pooled[one])
        assert_close(prior.predict_noise(x_t[one], t[one], PriorInputs(alone)), eps[one])
        assert_close(prior.encode_image(images[one]), latents[one])


def test_joining_and_choosing_texts_carries_the_pooled_part(prior: SDXLPrior) -> None:
    text = prior.encode_text(PROMPTS)
    assert text.pooled is not None
    joined = PriorText.cat([text[:1], text[1:]])
    assert joined.pooled is not None
    assert torch.equal(joined.tokens, text.tokens) and torch.equal(joined.pooled, text.pooled)
    chosen = text[torch.tensor([2, 0, 2])].pooled
    assert chosen is not None and torch.equal(chosen, text.pooled[[2, 0, 2]])


def test_distillation_gives_each_image_the_pooled_part_of_its_own_text(prior: SDXLPrior) -> None:
    cache = EncodingCache(prior.encode_text, PriorText.cat, capacity=10)
    judge = make_judge(prior, guidance_scale=3.0)
    judge = replace(judge, texts=Texts(cache))
    prompts = [PROMPTS[1], PROMPTS[0], PROMPTS[1]]
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    t, shift = torch.tensor([0.2, 0.5, 0.8]), torch.tensor([0.05, 0.1, 0.1])
    together = distill(judge, "asd", latents, judge.texts.plain(prompts), noise, t, shift)
    assert together.norm() > 1e-3
    for i in range(3):
        one = slice(i, i + 1)
        alone = distill(
            judge, "asd", latents[one], judge.texts.plain(prompts[one]), noise[one], t[one], shift[one]
        )
        assert_close(together[one], alone)


def test_sampling_returns_images(prior: SDXLPrior) -> None:
    images = prior.sample(PROMPTS[:2], torch.randn(2, 4, 8, 8), num_steps=2)
    assert images.shape == (2, 3, 16, 16) and images.min() >= 0 and images.max() <= 1


@pytest.mark.parametrize(("force_upcast", "expected"), [(True, torch.float32), (False, torch.bfloat16)])
def test_autoencoder_is_float32_unless_marked_safe(
    copy: Path, force_upcast: bool, expected: torch.dtype
) -> None:
    change_json(copy / "vae" / "config.json", force_upcast=force_upcast)
    prior = priors.make(
        PriorSettings(name="sdxl", model=str(copy), sdxl={"dtype": "bfloat16"}), WeightSettings(), "cpu"
    )
    assert isinstance(prior, SDXLPrior)
    assert (prior._autoencoder.dtype, prior._unet.dtype) == (expected, torch.bfloat16)
    text = prior.encode_text(PROMPTS)
    latents = prior.encode_image(torch.rand(3, 3, 16, 16))
    eps = prior.predict_noise(latents, torch.full((3,), 0.5), PriorInputs(text))
    assert (text.tokens.dtype, latents.dtype, eps.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_training_runs_with_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, folder, training__max_steps=2, training__log_every=1)
    prior = f"priors.0={{name: sdxl, model: '{folder}', sdxl: {{dtype: float32}}}}"
    assert main(["--config", str(config), prior]) == 0
    assert "finished 2 steps" in capsys.readouterr().out
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [tick["step"] for tick in logged] == [1, 2]
    assert all(tick["prior0/pixel_gradient"] > 0 for tick in logged)


# --- what is wrong with a folder ---------------------------------------------------------------------------


@pytest.mark.parametrize("part", LAYOUT)
def test_a_missing_part_is_named(copy: Path, part: str) -> None:
    path = copy / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=rf"^prior .*copy: no {part} in this folder; give a pipeline folder"):
        SDXLPrior.from_pretrained(copy)


def truncate(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:500])


def change(name: str, **values: Any) -> Callable[[Path], Any]:
    return lambda folder: change_json(folder / name, **values)


def forget_weight(folder: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / name)
    del weights[max(weights)]
    save_file(weights, folder / name, metadata={"format": "pt"})


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate("text_encoder_2/model.safetensors"), r"text_encoder_2/ and tokenizer_2/ cannot be loaded"),
        (truncate("text_encoder/model.safetensors"), r"text_encoder/ and tokenizer/ cannot be loaded"),
        (
            lambda folder: forget_weight(folder, "text_encoder_2/model.safetensors"),
            r"tokenizer_2/ cannot be loaded \(text_encoder_2/ has no weights for",
        ),
        (truncate(f"unet/{WEIGHTS}"), r"unet/ cannot be loaded"),
        (lambda folder: forget_weight(folder, f"unet/{WEIGHTS}"), r"\(unet/ has no weights for up_blocks"),
        (truncate(f"vae/{WEIGHTS}"), r"vae/ cannot be loaded"),
        (truncate("tokenizer_2/tokenizer.json"), r"text_encoder_2/ and tokenizer_2/ cannot be loaded"),
        (lambda folder: (folder / "model_index.json").write_text("{"), r"model_index.json cannot be loaded"),
        (
            change("model_index.json", force_zeros_for_empty_prompt="yes"),
            r"force_zeros_for_empty_prompt is 'yes'; accepted are true and false",
        ),
        (change("scheduler/scheduler_config.json", prediction_type="sample"), r"prediction_type is 'sample'"),
        (
            change("scheduler/scheduler_config.json", _class_name="EDMEulerScheduler"),
            r"scheduler/ cannot be loaded \(scheduler/ is EDMEulerScheduler",
        ),
    ],
)
def test_a_damaged_part_is_named(copy: Path, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(copy)
    with pytest.raises(ValueError, match=rf"^prior .*copy: .*{message}"):
        SDXLPrior.from_pretrained(copy)


def test_parts_that_do_not_belong_together_are_named(folder: Path) -> None:
    pipe = pipeline(folder)
    unet, config = pipe.unet, dict(pipe.unet.config)

    def load(**changes: Any) -> None:
        changed = type(unet).from_config(config | changes)
        encoders = (pipe.text_encoder, pipe.tokenizer, pipe.text_encoder_2, pipe.tokenizer_2)
        SDXLPrior(pipe.vae, changed, *encoders, pipe.scheduler.alphas_cumprod, "epsilon")

    load()
    with pytest.raises(ValueError, match=r"unet/ is not SDXL's: its addition_embed_type is None"):
        load(addition_embed_type=None, addition_time_embed_dim=None)
    with pytest.raises(ValueError, match=r"text_encoder_2/ have 24 features together, unet/ reads 32"):
        load(cross_attention_dim=32)
    with pytest.raises(ValueError, match=r"unet/ reads 52 added features, and 6 time ids .* give 60; SDXL's"):
        load(projection_class_embeddings_input_dim=12 + 5 * 8)


def test_the_other_loader_says_whose_the_folder_is(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"unet/ is SDXL's, which has two text encoders; load it as sdxl"):
        StableDiffusionPrior.from_pretrained(folder)


def test_the_key_of_a_prior_that_cannot_be_loaded_is_named(folder: Path, copy: Path) -> None:
    shutil.rmtree(copy / "text_encoder_2")
    priors = [
        PriorSettings(name="sdxl", model=str(path), sdxl={"dtype": "float32"}, weight=2.0)
        for path in (folder, copy)
    ]
    (judge,) = make_judges(Config(priors=priors[:1]), torch.device("cpu"), 10)
    assert (
        isinstance(judge.prior, SDXLPrior)
        and judge.weight == 2
        and judge.texts.encode(["a cat"]).pooled is not None
    )
    with pytest.raises(ValueError, match=r"^priors\.1: prior .*copy: no text_encoder_2/ in this folder"):
        make_judges(Config(priors=priors), torch.device("cpu"), 10)


def test_the_model_has_to_be_given() -> None:
    with pytest.raises(ValueError, match=r"\.model: missing; sdxl needs a hub id or a folder"):
        PriorSettings(name="sdxl")
