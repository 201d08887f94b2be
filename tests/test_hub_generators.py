"""Exported generators on a hub, which is a server on this machine: what is downloaded, what is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scaledreamer import assemble, generators
from scaledreamer.cli import evaluate, infer
from scaledreamer.config import Config, GeneratorSettings, WeightSettings, load_config
from scaledreamer.doctor.files import check_models as doctor_check_models
from scaledreamer.downloads import check_models
from scaledreamer.exported import check_files, check_generator, find_generator, read_index, start_from
from scaledreamer.launch.engine import Process
from scaledreamer.pipeline import TextTo3D
from scaledreamer.weights.hub_lookup import Access
from tests.support.fake_hub import FakeHub, serve
from tests.support.tiny_export import tiny_pipeline

DEAD = "http://127.0.0.1:9"
"""Nobody listens there."""
TEMPLATE = "{}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
FILES = {"model_index.json", "generator/model.safetensors", "text_encoder/config.json"}
FILES |= {"text_encoder/model.safetensors", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "frogs"
    tiny_pipeline().save_pretrained(folder)
    return folder


def ask(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes an address the default hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", TEMPLATE.format(address))


@pytest.fixture
def hub(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The default hub, with `owner/frogs` and much beside it, and an empty cache and working folder."""
    from huggingface_hub import constants

    served = Path(shutil.copytree(exported, tmp_path / "served" / "frogs"))
    (served / "checkpoints").mkdir()
    (served / "checkpoints" / "state.safetensors").write_bytes(b"x" * 1000)
    (served / "frog.glb").write_bytes(b"x" * 1000)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serve({"owner/frogs": served}) as hub:
        ask(hub.address, monkeypatch)
        yield hub


def config_with(start: str, **weights: Any) -> Config:
    return Config(generator=GeneratorSettings(start=start), weights=WeightSettings(**weights))


def test_exactly_the_files_of_the_export_are_downloaded_once(hub: FakeHub, exported: Path) -> None:
    found = check_generator("owner/frogs")
    assert found is not None and found.num_bytes > 0 and set(found.missing_files) >= FILES
    assert not [name for name in hub.files if name.endswith(".safetensors")]
    folder = find_generator("owner/frogs")
    check_files(folder, read_index(folder))
    names, theirs = (
        {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
        for place in (folder, exported)
    )
    assert names == set(found.missing_files) == theirs - {"README.md"}
    before = list(hub.files)
    assert find_generator("owner/frogs") == folder and hub.files == before
    assert check_generator("owner/frogs").num_bytes == 0  # pyright: ignore[reportOptionalMemberAccess]
    assert TextTo3D.from_pretrained("owner/frogs", device="cpu").folder == folder


def test_what_was_downloaded_serves_without_a_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_generator("owner/frogs")
    ask(DEAD, monkeypatch)
    assert find_generator("owner/frogs") == folder
    assert find_generator("owner/frogs", Access(offline=True)) == folder
    (folder / "generator" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"snapshots/\w+ lacks generator/model\.safetensors"):
        find_generator("owner/frogs")


def test_a_folder_of_that_name_goes_before_the_hub(hub: FakeHub, exported: Path) -> None:
    shutil.copytree(exported, "owner/frogs")
    assert find_generator("owner/frogs") == Path("owner/frogs")
    assert check_generator("owner/frogs") is None and hub.num_requests == 0


def test_the_best_generator_of_a_run_on_a_hub(hub: FakeHub, exported: Path) -> None:
    run = hub.models["owner/frogs"].parent / "run"
    shutil.copytree(exported, run / "generator")
    shutil.copytree(exported, run / "generator" / "best")
    hub.models["owner/run"] = run
    folder = find_generator("owner/run")
    assert folder.parts[-2:] == ("generator", "best") and read_index(folder)
    assert not [name for name in hub.files if name == "owner/run/generator/model_index.json"]


def test_an_export_without_hashes_is_taken_by_its_folders(hub: FakeHub) -> None:
    path = hub.models["owner/frogs"] / "model_index.json"
    index = json.loads(path.read_text())
    del index["sha256"]
    path.write_text(json.dumps(index))
    folder = find_generator("owner/frogs")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file()} >= FILES
    assert not (folder / "frog.glb").exists()


@pytest.mark.parametrize("program", ["infer", "evaluate"])
def test_programs_take_a_hub_id(program: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    if program == "infer":
        monkeypatch.setattr(infer, "_run", lambda arguments, *_: taken.append(arguments.checkpoint) or 0)
        assert infer.main(["--prompt", "a frog", "--checkpoint", "owner/frogs"]) == 0
    else:
        monkeypatch.setattr(evaluate, "_run", lambda arguments, *_: taken.append(arguments.checkpoint))
        assert evaluate.main(["--checkpoint", "owner/frogs", "--out", "scores.json"]) == 0
    assert read_index(taken[0])["_class_name"] == "TextTo3D"


def test_training_starts_from_a_hub_id(hub: FakeHub, exported: Path) -> None:
    config = config_with("owner/frogs")
    (line,) = check_models(config)
    assert line.startswith("generator.start: owner/frogs: ") and line.endswith(" are to be downloaded")
    section, _ = doctor_check_models(config)
    assert "generator.start: owner/frogs: " in str(section) and section.numbers["download_bytes"] != 0
    index = read_index(exported)
    generator = generators.make(index["generator"]["name"], index["generator"]["settings"])
    start_from(generator, GeneratorSettings(name=index["generator"]["name"]), "owner/frogs")
    theirs = TextTo3D.from_pretrained(exported, device="cpu").generator.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in generator.state_dict().items())
    assert check_models(config) == []


def test_training_asks_mirrors_and_keeps_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(DEAD, monkeypatch)
    with pytest.raises(
        ValueError, match=r"^generator\.start: checkpoint owner/frogs: no hub is asked \(weights\."
    ):
        check_models(config_with("owner/frogs", offline=True, mirrors=[hub.address]))
    assert hub.num_requests == 0
    (line,) = check_models(config_with("owner/frogs", mirrors=[hub.address]))
    assert "are to be downloaded" in line
    with pytest.raises(
        ValueError, match=r"^generator\.start: .* cannot be reached .* a mirror in weights\.mirr"
    ):
        check_models(config_with("owner/frogs"))


def test_the_trainer_asks_hubs_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    class StopError(Exception):
        """Enough is known."""

    def stop(*arguments: Any) -> None:
        taken.extend(arguments[-2:])
        raise StopError

    taken: list[Any] = []
    monkeypatch.setattr(assemble, "start_from", stop)
    weights = ["weights.offline=true", "weights.mirrors=[https://mirror]"]
    config = load_config("tiny", [*weights, "generator.start=owner/frogs", "prompts.limit=2"])
    with pytest.raises(StopError):
        assemble.make_trainer(config, Process(0, 1, torch.device("cpu")))
    assert taken == ["owner/frogs", Access(mirrors=["https://mirror"], offline=True)]


def test_what_cannot_be_had_is_one_line(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(name: str) -> str:
        assert infer.main(["--prompt", "a frog", "--checkpoint", name]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: checkpoint ") and error.count("\n") == 1
        return error

    assert "owner/toads: no such folder here, and http://127" in said("owner/toads")
    assert "has no such model (404); check the id" in said("owner/toads")
    assert "there is no such folder; give a run's folder, an exported generator or the hub id" in said(
        "a/b/c"
    )
    pipeline = hub.models["owner/frogs"].parent / "pipeline"
    pipeline.mkdir()
    (pipeline / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    hub.models["owner/sd"] = pipeline
    assert "owner/sd: holds StableDiffusionPipeline, not a generator of this package" in said("owner/sd")
    (hub.models["owner/frogs"] / "tokenizer" / "tokenizer.json").unlink()
    assert "owner/frogs: no tokenizer/tokenizer.json in it" in said("owner/frogs")
    (hub.models["owner/frogs"] / "model_index.json").unlink()
    assert "owner/frogs: no model_index.json in it; give a run's folder" in said("owner/frogs")
    ask(DEAD, monkeypatch)
    said_last = said("owner/toads")
    assert "cannot be reached" in said_last and "set HF_ENDPOINT to a mirror, or give" in said_last
    assert "weights." not in said_last
