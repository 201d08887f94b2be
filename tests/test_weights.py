"""Where weights come from: folders, checkpoints in one file, and hubs, which are servers on this machine."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (diffusers declares the types of its constructors and loaders too narrowly)

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scaledreamer import priors
from scaledreamer.config import ConditionerSettings, Config, PriorSettings, WeightSettings
from scaledreamer.contracts import PriorInputs
from scaledreamer.downloads import check_models
from scaledreamer.priors.sdxl import SDXLPrior
from scaledreamer.priors.stable_diffusion import StableDiffusionPrior
from scaledreamer.prompts.conditioner import TextConditioner, make_conditioner
from scaledreamer.weights import layout
from scaledreamer.weights.find import WeightsError, check_weights, find_weights
from scaledreamer.weights.places import TINY_PRIOR
from tests.support.fake_hub import COMMIT, FakeHub, serve
from tests.support.ldm_checkpoint import save_single_file
from tests.support.random_models import save_sdxl, save_stable_diffusion
from tests.support.runs import write_config

ROOT = Path(__file__).parent.parent
SD = layout.STABLE_DIFFUSION
UNET = "unet/diffusion_pytorch_model"
DEAD = "http://127.0.0.1:9"
"""Nobody listens there."""
TEMPLATE = "HUB/{repo_id}/resolve/{revision}/{filename}"
"""Of addresses of files; huggingface_hub makes it of HF_ENDPOINT when it is imported."""


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sd`, `sdxl`, and `fp16`: sd with both kinds of files, which differ (those of fp16 are 0)."""
    base = tmp_path_factory.mktemp("pipelines")
    save_stable_diffusion(base / "sd", "epsilon")
    save_sdxl(base / "sdxl")
    shutil.copytree(base / "sd", base / "fp16")
    for path in (base / "fp16").rglob("*.safetensors"):
        half = {name: torch.zeros_like(value).half() for name, value in load_file(path).items()}
        save_file(half, path.with_name(f"{path.stem}.fp16.safetensors"), metadata={"format": "pt"})
    return base


@pytest.fixture
def copy(pipelines: Path, tmp_path: Path) -> Path:
    """A pipeline that a test may spoil."""
    return Path(shutil.copytree(pipelines / "sd", tmp_path / "copy"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the hub is one that does not answer, and no token is set."""
    from huggingface_hub import constants

    for name, value in {"HF_HUB_CACHE": str(tmp_path / "cache"), "ENDPOINT": DEAD}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", TEMPLATE.replace("HUB", DEAD))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def hub(pipelines: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The default hub, with models as there are on the real one: with much that no prior needs."""
    from huggingface_hub import constants

    for name in ("sd", "fp16", "sdxl"):
        folder = Path(shutil.copytree(pipelines / name, tmp_path / "served" / name))
        (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x" * 1000)
        (folder / "safety_checker").mkdir()
        (folder / "safety_checker" / "model.safetensors").write_bytes(b"x" * 1000)
        (folder / "v1-5-pruned.ckpt").write_bytes(b"x" * 1000)
    served = tmp_path / "served"
    with serve({f"owner/{name}": served / name for name in ("sd", "fp16", "sdxl")}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", TEMPLATE.replace("HUB", hub.address))
        yield hub


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def shard(folder: Path, variant: str = "") -> None:
    """The UNet's weights in two files with an index, as large ones are saved."""
    dotted = f".{variant}" if variant else ""
    path = folder / f"{UNET}{dotted}.safetensors"
    weights, where = load_file(path), {}
    for i, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        name = f"diffusion_pytorch_model{dotted}-0000{i + 1}-of-00002.safetensors"
        save_file({key: weights[key] for key in names}, folder / "unet" / name, metadata={"format": "pt"})
        where |= dict.fromkeys(names, name)
    path.unlink()
    size = sum(value.nbytes for value in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / f"{UNET}.safetensors.index{dotted}.json").write_text(json.dumps(index))


def eps(prior: StableDiffusionPrior | SDXLPrior) -> torch.Tensor:
    x_t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return prior.predict_noise(x_t, torch.tensor([0.5]), PriorInputs(prior.encode_text(["a red cat"])))


# --- folders and variants ----------------------------------------------------------------------------------


def test_a_folder_is_taken_as_it_is(pipelines: Path) -> None:
    found = check_weights([str(pipelines / "sd")], parts=SD)
    assert (found.kind, found.missing_files, found.num_bytes, found.variant) == ("folder", (), 0, None)
    weights = find_weights([str(pipelines / "sd")], parts=SD)
    assert (weights.folder, weights.single_file, weights.variant) == (pipelines / "sd", None, None)
    assert find_weights([str(TINY_PRIOR)], parts=SD, is_half=True).variant is None


def test_nothing_is_imported_but_what_is_needed() -> None:
    code = "import sys; from scaledreamer.weights import find; find.check_weights(sys.argv[1:], "
    code += "parts=('vae', 'unet')); assert not {'torch', 'diffusers', 'huggingface_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(TINY_PRIOR)], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("variant", "is_half", "expected"),
    [("auto", True, "fp16"), ("auto", False, None), ("fp16", False, "fp16"), ("none", True, None)],
)
def test_variant_is_chosen_and_loaded(
    pipelines: Path, variant: str, is_half: bool, expected: str | None
) -> None:
    found = find_weights([str(pipelines / "fp16")], parts=SD, variant=variant, is_half=is_half)
    assert found.variant == expected
    assert found.folder is not None
    prior = StableDiffusionPrior.from_pretrained(found.folder, variant=found.variant)
    encoder = TextConditioner.from_pretrained(found.folder, variant=found.variant)
    for network in (prior._unet, prior._autoencoder, prior._encoders[0][0], encoder._encoder):
        assert any(p.any() for p in network.parameters()) == (expected is None)


def test_a_part_without_the_variant_is_loaded_as_it_is(copy: Path, pipelines: Path) -> None:
    shutil.copy(pipelines / "fp16" / f"{UNET}.fp16.safetensors", copy / "unet")
    (copy / f"{UNET}.safetensors").unlink()
    found = find_weights([str(copy)], parts=SD, is_half=True)
    assert found.variant == "fp16" and found.folder is not None
    prior = StableDiffusionPrior.from_pretrained(found.folder, variant=found.variant)
    assert not prior._unet.conv_in.weight.any() and prior._autoencoder.encoder.conv_in.weight.any()
    assert find_weights([str(copy)], parts=SD).variant == "fp16", "what is there serves float32 too"


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_weights_in_several_files_are_found(pipelines: Path, tmp_path: Path, variant: str) -> None:
    folder = Path(shutil.copytree(pipelines / "fp16", tmp_path / "sharded"))
    shard(folder, variant)
    found = find_weights([str(folder)], parts=SD, is_half=bool(variant))
    assert found.variant == (variant or None) and found.folder is not None
    prior = StableDiffusionPrior.from_pretrained(found.folder, variant=found.variant)
    assert bool(prior._unet.conv_in.weight.any()) == (not variant)
    next(folder.glob("unet/*00002-of*")).unlink()
    with pytest.raises(
        WeightsError, match=r"no unet/diffusion_pytorch_model.*-00002-of-00002\.safetensors in"
    ):
        find_weights([str(folder)], parts=SD, is_half=bool(variant))


def test_build_loads_priors_and_conditioner_of_the_first_place(pipelines: Path, tmp_path: Path) -> None:
    places = [str(tmp_path / "none"), str(pipelines / "fp16")]
    prior = priors.make(PriorSettings(name="stable_diffusion", model=places), WeightSettings(), "cpu")
    assert isinstance(prior, StableDiffusionPrior)
    assert prior._unet.dtype == torch.bfloat16 and not prior._unet.conv_in.weight.any(), "auto takes fp16"
    settings = ConditionerSettings(name="clip", model=places)
    conditioner = make_conditioner(settings, WeightSettings(), "cpu")
    assert conditioner._encoder.dtype == torch.float32 and any(p.any() for p in conditioner.state().values())


# --- what is wrong with a folder ---------------------------------------------------------------------------


def truncate(name: str, size: int) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def write(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def change(name: str, **values: Any) -> Callable[[Path], Any]:
    return lambda folder: change_json(folder / name, **values)


def rename(name: str, new: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).rename(folder / new)


CONFIG, INDEX = "unet/config.json", "model_index.json"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: shutil.rmtree(folder / "vae"),
            r"no vae/ in this folder; give a pipeline folder of the",
        ),
        (lambda folder: shutil.rmtree(folder / "scheduler"), r"no scheduler/ in this folder"),
        (lambda folder: (folder / CONFIG).unlink(), r"no unet/config\.json in this folder"),
        (
            lambda folder: (folder / "tokenizer/tokenizer.json").unlink(),
            r"no tokenizer/tokenizer\.json in this",
        ),
        (
            truncate(f"{UNET}.safetensors", -9),
            r"unet/.*\.safetensors is cut short: \d+ of \d+ bytes; copy",
        ),
        (
            truncate(f"{UNET}.safetensors", 100),
            r"is cut short: 100 bytes, which end within its header; copy it",
        ),
        (
            truncate("text_encoder/model.safetensors", 0),
            r"text_encoder/model\.safetensors is cut short: 0 bytes",
        ),
        (write(f"{UNET}.safetensors", b"x" * 500), r"is no safetensors file, or a damaged one"),
        (
            write(
                f"{UNET}.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
            ),
            r"is a pointer of Git LFS, not the file itself; run `git lfs pull`",
        ),
        (rename(f"{UNET}.safetensors", f"{UNET}.bin"), r"unet/ has pickled weights alone .*; convert them"),
        (write(CONFIG, b"{"), r"unet/config\.json cannot be read \("),
        (write(CONFIG, b"[]"), r"unet/config\.json holds no mapping"),
        (change(CONFIG, in_channels=9), r"is a model for inpainting: its unet/ has in_channels 9; give the"),
        (change(CONFIG, addition_embed_type="text_time"), r"unet/ is SDXL's, .*; load it with name sdxl"),
        (
            change(CONFIG, _class_name="UNetSpatioTemporalConditionModel"),
            r"whose unet/ is UNetSpatioTemporal",
        ),
        (
            change("text_encoder/config.json", architectures=["T5EncoderModel"]),
            r"is T5EncoderModel, not CLIP",
        ),
        (
            lambda folder: [
                rename("unet", "transformer")(folder),
                change(INDEX, _class_name="StableDiffusion3Pipeline")(folder),
            ],
            r"is StableDiffusion3Pipeline, with a transformer/ in place of the unet/; read are UNets of",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(
    copy: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    spoil(copy)
    with pytest.raises(WeightsError, match=rf"^{copy}: .*{message}") as error:
        check_weights([str(copy)], parts=SD)
    assert "\n" not in str(error.value)


def test_a_variant_that_is_not_there_is_named(pipelines: Path, copy: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"vae/ has no safetensors but|no safetensors .*fp16; set weights.var"
    ):
        check_weights([str(copy)], parts=SD, variant="fp16")
    shutil.copy(pipelines / "fp16" / f"{UNET}.fp16.safetensors", copy / "unet")
    (copy / f"{UNET}.safetensors").unlink()
    with pytest.raises(
        WeightsError, match=r"unet/ has no safetensors but those of fp16; set weights.variant=auto"
    ):
        check_weights([str(copy)], parts=SD, variant="none")


def test_the_variant_is_of_other_models_than_the_shipped(copy: Path) -> None:
    config = Config(weights=WeightSettings(variant="fp16"))
    assert check_models(config) == []
    weights = config.weights
    assert make_conditioner(config.conditioner, weights, "cpu").condition_dim == 128
    with pytest.raises(ValueError, match=r"^conditioner\.model: .*no safetensors of the variant fp16"):
        check_models(Config(weights=weights, conditioner=ConditionerSettings(name="clip", model=str(copy))))


def test_the_wrong_family_is_named(pipelines: Path, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"unet/ is SDXL's, which has two text encoders; load it with name sd"
    ):
        check_weights([str(pipelines / "sdxl")], parts=SD)
    with pytest.raises(WeightsError, match=r"unet/ is not SDXL's: .* with name stable_diffusion"):
        check_weights([str(pipelines / "sd")], parts=layout.SDXL)
    assert check_weights([str(pipelines / "sdxl")], parts=layout.SDXL).kind == "folder"
    assert check_weights([str(pipelines / "sdxl")], parts=layout.TEXT_ENCODER).kind == "folder"
    refiner = Path(shutil.copytree(pipelines / "sdxl", tmp_path / "refiner"))
    change_json(refiner / INDEX, text_encoder=[None, None])
    with pytest.raises(WeightsError, match=r"is SDXL's refiner, which is no prior; give its base model"):
        check_weights([str(refiner)], parts=layout.SDXL)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "/nowhere/sd",
            r"^/nowhere/sd: no such folder or file; check the path, or give a hub id \(owner/name\)",
        ),
        ("./models/sd", r"^\./models/sd: no such folder or file"),
        ("~/no such place/sd", r"no such folder or file \(.* is there, no such place in it is not\)"),
        ("models/sd/1.5", r"^models/sd/1\.5: no such folder or file"),
        ("sd.safetensors", r"^sd\.safetensors: no such file; check the path"),
        ("models/sd.ckpt", r"^models/sd\.ckpt: no such file"),
        ("sd", r"^sd: neither a folder nor a file here, nor a hub id \(owner/name\)"),
        ("owner/na me", r"^owner/na me: neither a folder nor a file here"),
        ("x" * 300, r"x: neither a folder nor a file here"),
    ],
)
def test_a_mistyped_path_is_not_asked_for_at_a_hub(hub: FakeHub, name: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        check_weights([name], parts=SD)
    assert hub.num_requests == 0


def test_every_place_is_named_where_none_works(copy: Path) -> None:
    shutil.rmtree(copy / "unet")
    with pytest.raises(WeightsError) as error:
        check_weights(["/nowhere", str(copy)], parts=SD)
    expected = (
        f"none of 2 places works: /nowhere: no such folder or file; {copy}: no unet/ in this folder; check"
    )
    assert str(error.value).startswith(expected) and "; give a pipeline folder" in str(error.value)


# --- checkpoints in one file -------------------------------------------------------------------------------


def configurations(pipeline: Path, folder: Path) -> Path:
    """A pipeline without its weights."""
    shutil.copytree(pipeline, folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    return folder


@pytest.mark.parametrize(("name", "kind"), [("sd", "stable_diffusion"), ("sdxl", "sdxl")])
def test_a_single_file_is_the_same_as_its_pipeline(
    pipelines: Path, tmp_path: Path, cache: Path, name: str, kind: str
) -> None:
    file = save_single_file(pipelines / name, tmp_path / "model.safetensors")
    configurations(pipelines / name, tmp_path / "model")
    both = []
    for model in (file, pipelines / name):
        settings = {"name": kind, "model": str(model), kind: {"dtype": "float32"}}
        both.append(priors.make(PriorSettings(**settings), WeightSettings(), "cpu"))
    (mine, other), images = both, torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(eps(mine), eps(other))
    torch.testing.assert_close(mine.encode_image(images), other.encode_image(images))
    for a, b in zip(
        vars(mine.encode_text(["a cat"])).values(), vars(other.encode_text(["a cat"])).values(), strict=True
    ):
        assert a is b is None or torch.equal(a, b)


def test_the_autoencoder_of_a_single_file_keeps_its_precision(pipelines: Path, tmp_path: Path) -> None:
    file = save_single_file(pipelines / "sdxl", tmp_path / "model.safetensors")
    folder = configurations(pipelines / "sdxl", tmp_path / "model")
    prior = SDXLPrior.from_pretrained(folder, dtype=torch.bfloat16, single_file=file)
    assert (prior._autoencoder.dtype, prior._unet.dtype) == (torch.float32, torch.bfloat16)
    whole = SDXLPrior.from_pretrained(pipelines / "sdxl")
    images = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(prior.encode_image(images), whole.encode_image(images))


def test_configurations_of_a_single_file_come_from_the_hub(
    pipelines: Path, tmp_path: Path, hub: FakeHub
) -> None:
    file = save_single_file(pipelines / "sd", tmp_path / "model.safetensors")
    model = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    hub.models[model] = tmp_path / "served" / "sd"
    found = check_weights([str(file)], parts=SD, is_half=True)
    assert found.kind == "file" and found.num_bytes > 0 and INDEX in found.missing_files
    weights = find_weights([str(file)], parts=SD, is_half=True)
    assert weights.single_file == file and weights.folder is not None
    assert not list(weights.folder.rglob("*.safetensors")) and not [
        x for x in hub.files if x.endswith(".bin")
    ]
    prior = StableDiffusionPrior.from_pretrained(weights.folder, single_file=file)
    torch.testing.assert_close(eps(prior), eps(StableDiffusionPrior.from_pretrained(pipelines / "sd")))
    assert check_weights([str(file)], parts=SD, offline=True).num_bytes == 0


def test_configurations_that_cannot_be_had_are_named(pipelines: Path, tmp_path: Path, cache: Path) -> None:
    file = save_single_file(pipelines / "sd", tmp_path / "model.safetensors")
    expected = (
        r"model\.safetensors: needs the configurations and tokenizers of stable-diffusion-v1-5/stable.*, "
        rf"which are not on this disk \(.*{DEAD} cannot be reached \(.*; or put model_index\.json, tokenizer/"
    )
    with pytest.raises(WeightsError, match=expected):
        check_weights([str(file)], parts=SD)
    with pytest.raises(WeightsError, match=r"no hub is asked \(weights.offline\)"):
        check_weights([str(file)], parts=SD, offline=True)
    configurations(pipelines / "sd", tmp_path / "model")
    (tmp_path / "model" / "vae" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"its configurations in .*/model: no vae/"):
        check_weights([str(file)], parts=SD)


def forget(start: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: [state.pop(key) for key in list(state) if key.startswith(start)]


FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda state: state.update({FIRST: torch.zeros(8, 9, 3, 3)}),
            r"is a model for inpainting .* in_channels 9",
        ),
        (forget("first_stage_model."), r"has no autoencoder \(first_stage_model\); give a whole checkpoint"),
        (forget("cond_stage_model."), r"has no text encoder"),
        (
            forget("model.diffusion_model."),
            r"is no checkpoint of Stable Diffusion: it has no UNet by its names",
        ),
        (
            lambda state: [
                state.clear(),
                state.update({"model.diffusion_model.joint_blocks.0.x": torch.zeros(1)}),
            ],
            r"has a transformer in place of the UNet, as SD3 and Flux have",
        ),
        (
            lambda state: [
                forget("cond_stage_model.")(state),
                state.update({"conditioner.embedders.0.model.x": torch.zeros(1)}),
            ],
            r"is SDXL's refiner, which is no prior",
        ),
        (
            lambda state: state.update({"conditioner.embedders.1.model.x": torch.zeros(1)}),
            r"is SDXL; load it with name sdxl",
        ),
        (
            lambda state: [
                forget("cond_stage_model.")(state),
                state.update({"cond_stage_model.model.x": torch.zeros(1)}),
            ],
            r"is Stable Diffusion 2\.x, which needs the settings of its own scheduler; put model_index\.json",
        ),
    ],
)
def test_a_single_file_of_another_family_is_named(
    pipelines: Path, tmp_path: Path, cache: Path, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    file = save_single_file(pipelines / "sd", tmp_path / "model.safetensors")
    state = load_file(file)
    edit(state)
    save_file(state, file)
    with pytest.raises(WeightsError, match=message):
        check_weights([str(file)], parts=SD)


def test_other_files_are_refused(pipelines: Path, tmp_path: Path, cache: Path) -> None:
    file = save_single_file(pipelines / "sd", tmp_path / "model.safetensors")
    for name, message in (
        ("m.ckpt", "is a pickled checkpoint, which can run code"),
        ("m.txt", "is a file, and no"),
    ):
        shutil.copy(file, tmp_path / name)
        with pytest.raises(WeightsError, match=message):
            check_weights([str(tmp_path / name)], parts=SD)
    with pytest.raises(
        WeightsError, match=r"one file, and a text encoder is read from a folder; give a folder"
    ):
        check_weights([str(file)], parts=layout.TEXT_ENCODER)
    with pytest.raises(
        WeightsError, match=r"is Stable Diffusion 1\.x or 2\.x; load it with name stable_diffusion"
    ):
        check_weights([str(file)], parts=layout.SDXL)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"model\.safetensors is cut short: "):
        check_weights([str(file)], parts=SD)


# --- hubs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_half", "dotted"), [(True, ".fp16"), (False, "")])
def test_only_what_is_needed_is_downloaded(hub: FakeHub, cache: Path, is_half: bool, dotted: str) -> None:
    served = hub.models["owner/fp16"]
    found = check_weights(["owner/fp16"], parts=SD, is_half=is_half)
    expected = {
        INDEX,
        "scheduler/scheduler_config.json",
        *(f"{part}/config.json" for part in ("vae", "unet", "text_encoder")),
        *(f"{part}/diffusion_pytorch_model{dotted}.safetensors" for part in ("vae", "unet")),
        f"text_encoder/model{dotted}.safetensors",
        *(name for name in files_in(served) if name.startswith("tokenizer/")),
    }
    assert found.kind == "hub" and set(found.missing_files) == expected
    assert found.num_bytes == sum((served / name).stat().st_size for name in expected)
    assert not cache.exists(), "a check downloads nothing"
    weights = find_weights(["owner/fp16"], parts=SD, is_half=is_half)
    assert weights.folder is not None and weights.folder.is_relative_to(cache)
    assert files_in(weights.folder) == expected and weights.variant == found.variant == (dotted[1:] or None)
    prior = StableDiffusionPrior.from_pretrained(weights.folder, variant=weights.variant)
    assert bool(prior._unet.conv_in.weight.any()) == (not is_half)
    assert check_weights(["owner/fp16"], parts=SD, is_half=is_half).num_bytes == 0


def test_a_conditioner_downloads_its_text_encoder_alone(hub: FakeHub) -> None:
    settings = ConditionerSettings(name="clip", model="owner/sd", revision="main")
    conditioner = make_conditioner(settings, WeightSettings(), "cpu")
    names = {name.removeprefix("owner/sd/").split("/")[0] for name in hub.files}
    assert names == {INDEX, "text_encoder", "tokenizer"} and conditioner.condition_dim == 16


def test_sharded_weights_are_downloaded_by_their_index(hub: FakeHub) -> None:
    shard(hub.models["owner/sdxl"])
    found = check_weights(["owner/sdxl"], parts=layout.SDXL)
    assert sum("-of-00002.safetensors" in name for name in found.missing_files) == 2
    weights = find_weights(["owner/sdxl"], parts=layout.SDXL)
    assert weights.folder is not None
    SDXLPrior.from_pretrained(weights.folder)
    next(hub.models["owner/sdxl"].glob("unet/*00002-of*")).unlink()
    with pytest.raises(
        WeightsError, match=r"no unet/diffusion_pytorch_model-00002-of-00002\.safetensors in it"
    ):
        check_weights(["owner/sdxl"], parts=layout.SDXL)


def test_what_was_downloaded_serves_without_the_hub(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    options: dict[str, Any] = {"parts": SD, "revision": "main"}
    first = find_weights(["owner/sd"], **options)
    num_requests = hub.num_requests
    assert find_weights(["owner/sd"], offline=True, **options) == first
    assert find_weights(["owner/sd"], parts=SD, revision=COMMIT) == first
    assert hub.num_requests == num_requests, "neither offline nor for a commit that is here is a hub asked"
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert find_weights(["owner/sd"], **options) == first
    hub.models.clear()  # as models do that leave the hub
    assert find_weights(["owner/sd"], **options) == first
    monkeypatch.setattr(constants, "ENDPOINT", DEAD)
    assert find_weights(["owner/sd"], **options) == first
    assert check_weights(["owner/sd"], **options).num_bytes == 0


def test_offline_names_the_missing_files(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        WeightsError, match=rf"no hub is asked \(weights\.offline\), and nothing of it is in {cache}"
    ):
        check_weights(["owner/sd"], parts=SD, offline=True)
    find_weights(["owner/sd"], parts=layout.TEXT_ENCODER)
    asked = hub.num_requests
    expected = r"and .*snapshots/\w+ lacks vae/, unet/, scheduler/; set weights.offline=false, or give a f"
    with pytest.raises(WeightsError, match=expected):
        check_weights(["owner/sd"], parts=SD, offline=True)
    assert hub.num_requests == asked
    found = check_weights(["owner/sd"], parts=SD)
    assert {name.split("/")[0] for name in found.missing_files} == {"vae", "unet", "scheduler"}


def test_places_that_one_hub_does_not_give_are_named_together(cache: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"^none of 2 places works: owner/sd, owner/b: no such folder here, an"
    ):
        check_weights(["owner/sd", "owner/b"], parts=SD)


def test_a_mirror_is_asked_where_the_hub_does_not_answer(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", DEAD)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", TEMPLATE.replace("HUB", DEAD))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    weights = find_weights(["owner/sd"], parts=SD, mirrors=[f"{hub.address}/"])
    assert weights.folder is not None and files_in(weights.folder)
    assert hub.tokens == {None}, "a mirror never sees the token"
    with pytest.raises(WeightsError) as error:
        check_weights(["owner/other"], parts=SD, mirrors=[hub.address])
    assert f"{DEAD} cannot be reached" in str(error.value)
    assert f"{hub.address} has no such model (404); check the id" in str(error.value)
    with pytest.raises(WeightsError, match=r"mirror 'hf-mirror\.com' is no address; write https://"):
        check_weights(["owner/sd"], parts=SD, mirrors=["hf-mirror.com"])


def test_the_token_goes_to_the_default_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    check_weights(["owner/sd"], parts=SD)
    assert hub.tokens == {"Bearer hf_secret"}


def test_the_next_of_the_list_is_taken_where_an_id_is_missing(hub: FakeHub, pipelines: Path) -> None:
    found = check_weights(["owner/gone", "/nowhere", "owner/sd"], parts=SD)
    assert found.name == "owner/sd" and found.num_bytes > 0
    weights = find_weights(["owner/gone", str(pipelines / "sd")], parts=SD)
    assert weights.folder == pipelines / "sd"


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (
            401,
            "GatedRepo",
            r"have accepted its licence \(401\); accept the licence at {hub}/owner/sd and log in",
        ),
        (
            403,
            "GatedRepo",
            r"have accepted its licence \(403\); accept the licence at {hub}/owner/sd and log in",
        ),
        (403, "", r"have accepted its licence \(403\)"),
        (401, "RepoNotFound", r"has no such model, or a private one \(401\); check the id, or log in"),
        (500, "", r"{hub} answers 500; try again later, give a mirror in weights\.mirrors, or give a folder"),
    ],
)
def test_no_access_says_how_to_get_it(
    hub: FakeHub, cache: Path, status: int, code: str, message: str
) -> None:
    hub.denied["owner/sd"] = (status, code)
    with pytest.raises(WeightsError, match=message.replace("{hub}", hub.address)) as error:
        check_weights(["owner/sd"], parts=SD)
    assert "`model` may also be a list of places" in str(error.value)
    assert "hf auth login" in str(error.value) or status == 500
    with pytest.raises(WeightsError):
        find_weights(["owner/sd"], parts=SD)
    assert not hub.files


def test_an_unknown_id_or_revision_is_named(hub: FakeHub) -> None:
    with pytest.raises(
        WeightsError, match=r"no such folder here, and .* has no such model \(404\); check the id"
    ):
        check_weights(["owner/gone"], parts=SD)
    with pytest.raises(WeightsError, match=r"has no such revision of it; set revision to one"):
        check_weights(["owner/sd"], parts=SD, revision="v9")
    with pytest.raises(
        WeightsError, match=r"\(404\); it left the hub in November 2025: give a folder with a copy"
    ):
        check_weights(["stabilityai/stable-diffusion-2-1-base"], parts=SD)


def test_a_model_of_another_family_is_refused_before_its_download(hub: FakeHub) -> None:
    with pytest.raises(WeightsError, match=r"owner/sdxl: unet/ is SDXL's, .*; load it with name sdxl"):
        find_weights(["owner/sdxl"], parts=SD)
    assert not [name for name in hub.files if name.endswith("safetensors")]
    (hub.models["owner/sd"] / f"{UNET}.safetensors").unlink()
    with pytest.raises(
        WeightsError, match=r"unet/ has pickled weights alone \(diffusion_pytorch_model\.bin\)"
    ):
        find_weights(["owner/sd"], parts=SD)


def test_a_full_disk_is_noticed_before_the_download(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WeightsError, match=r"GiB are to be downloaded to .*; make room, or set HF_HOME"):
        check_weights(["owner/sd"], parts=SD)


def test_a_damaged_file_of_the_cache_is_named(hub: FakeHub) -> None:
    folder = find_weights(["owner/sd"], parts=SD).folder
    assert folder is not None
    path = (folder / f"{UNET}.safetensors").resolve()
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(
        WeightsError, match=r"is cut short: .*; copy it again, or delete it and let it be downl"
    ):
        check_weights(["owner/sd"], parts=SD)
    (folder / f"{UNET}.safetensors").unlink()
    path.unlink()
    assert check_weights(["owner/sd"], parts=SD).missing_files == (f"{UNET}.safetensors",)
    assert find_weights(["owner/sd"], parts=SD).folder == folder


def test_hubs_that_keep_silent_are_left_in_time(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.delay, unreachable = 20.0, {}
    start = time.monotonic()
    mirrors = [hub.address.replace("127.0.0.1", f"127.0.0.{i}") for i in (1,)] + [DEAD] * 2
    with pytest.raises(WeightsError, match=r"does not answer within 1\.1 s"):
        check_weights(["owner/sd", "owner/fp16"], parts=SD, mirrors=mirrors, unreachable=unreachable)
    assert time.monotonic() - start < 9 and set(unreachable) == {hub.address, DEAD}
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"does not answer within 1\.1 s"):
        check_weights(["owner/sd"], parts=SD, mirrors=mirrors, unreachable=unreachable)
    assert time.monotonic() - start < 1, "what did not answer is not asked again"


def test_each_file_is_downloaded_by_one_process(hub: FakeHub, tmp_path: Path) -> None:
    code = "from scaledreamer.weights import find, layout; print(find.find_weights(['owner/sd'], "
    code += "parts=layout.STABLE_DIFFUSION).folder)"
    changes = {"HF_ENDPOINT": hub.address, "HF_HUB_CACHE": str(tmp_path / "shared"), "HF_HUB_OFFLINE": "0"}
    hub.delay = 0.05
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    runs = [subprocess.Popen(command, cwd=ROOT, env=os.environ | changes, **pipes) for _ in range(3)]
    folders = {run.communicate(timeout=100)[0] for run in runs}
    assert len(folders) == 1 and f"snapshots/{COMMIT}" in folders.pop()
    weights = [name for name in hub.files if name.endswith(".safetensors")]
    assert len(weights) == len(set(weights)) == 3


# --- before a training -------------------------------------------------------------------------------------


def train(folder: Path, *settings: str, **changes: str) -> tuple[subprocess.CompletedProcess[str], float]:
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(folder / "config.yaml"), *settings]
    variables = os.environ | {"HF_HUB_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "0"} | changes
    start = time.monotonic()
    result = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=100, check=False
    )
    return result, time.monotonic() - start


def test_training_without_weights_ends_at_once_in_one_line(pipelines: Path, tmp_path: Path) -> None:
    write_config(tmp_path, pipelines / "sd")
    model = "priors.0.model=[owner/sd, /nowhere]"
    result, seconds = train(tmp_path, model, HF_ENDPOINT=DEAD)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    places = f"owner/sd: no such folder here, and {DEAD} cannot be reached"
    assert result.stderr.startswith(f"error: priors.0.model: none of 2 places works: {places}")
    assert "/nowhere: no such folder or file" in result.stderr
    assert result.stderr.endswith("`train.py --config configs/tiny.yaml` needs no weights.\n")
    assert seconds < 10 and not (tmp_path / "run").exists()


def test_training_with_a_silent_hub_ends_in_10_seconds(pipelines: Path, tmp_path: Path, hub: FakeHub) -> None:
    write_config(tmp_path, pipelines / "sd")
    hub.delay = 30.0
    settings = ["conditioner.model=owner/sd", f"weights.mirrors=[{hub.address}/mirror, {hub.address}/other]"]
    result, seconds = train(tmp_path, *settings, HF_ENDPOINT=hub.address)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: conditioner.model: owner/sd: no such folder here, and ")
    assert result.stderr.count("does not answer within 1.5 s") == 3
    assert seconds < 12, "10 on a machine that is not shared"


def test_models_to_be_downloaded_are_announced(hub: FakeHub, pipelines: Path) -> None:
    prior = PriorSettings(name="stable_diffusion", model="owner/sd")
    config = Config(priors=[prior, PriorSettings()])
    (line,) = check_models(config)
    assert line.startswith("priors.0.model: owner/sd: ") and line.endswith(" GiB are to be downloaded")
    priors.make(prior, config.weights, "cpu")
    assert check_models(config) == []
    assert check_models(Config()) == []


def test_training_downloads_and_runs(hub: FakeHub, pipelines: Path, tmp_path: Path) -> None:
    write_config(tmp_path, pipelines / "sd", training__max_steps=1)
    models = ["conditioner.model=owner/sd", "priors.0.model=owner/fp16"]
    result, _ = train(tmp_path, *models, HF_ENDPOINT=hub.address)
    assert result.returncode == 0, result.stderr
    assert (
        "conditioner.model: owner/sd: " in result.stdout and "priors.0.model: owner/fp16: " in result.stdout
    )
    assert (tmp_path / "run" / "generator" / "model_index.json").is_file()
    assert not [name for name in hub.files if ".fp16." in name], "the prior's dtype is float32"
