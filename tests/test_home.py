"""A user without a home folder: `~` is refused where it is used, and never becomes a folder's name."""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaledreamer.cli.infer_options import make_parser
from scaledreamer.config import load_config
from scaledreamer.doctor import files as doctor
from scaledreamer.exported import find_generator
from scaledreamer.home import expand_home
from scaledreamer.prompts.assembly import make_source
from scaledreamer.prompts.remote import shard_files
from scaledreamer.weights import hub
from scaledreamer.weights.find import WeightsError, check_weights

SHARDS = ["prompts.shard_size=100", "prompts.limit=4", "evaluation.every=null"]


@pytest.fixture(autouse=True)
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No HOME, no entry in the list of users, and an empty working folder that stays empty."""

    def refuse(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", refuse)
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["training.output", "generator.start", "prompts.file", "priors.0.model"])
@pytest.mark.parametrize("path", ["~", "~/x"])
def test_a_setting_in_the_home_folder_is_refused(key: str, path: str) -> None:
    message = f"^{key}: got '{path}', and there is no home folder: HOME is not set, .* or give {key} a path"
    with pytest.raises(ValueError, match=message):
        load_config("tiny", [f"{key}={path}"])


def test_a_home_that_is_empty_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    with pytest.raises(ValueError, match="no home folder"):
        expand_home("~/x", "training.output")
    monkeypatch.setenv("HOME", "/somewhere")
    assert expand_home("~/x", "training.output") == "/somewhere/x"


def test_shards_are_not_made_in_a_folder_of_that_name() -> None:
    config = load_config("tiny", SHARDS)
    with pytest.raises(ValueError, match=r"^prompts\.cache: got '~/.* set HOME, or give prompts\.cache a"):
        make_source(config.prompts)
    section = doctor.check_disk(config, num_parameters=1, download_bytes=0, num_prompts=4)
    assert [text for text in map(str, section.findings) if "prompts.cache: got '~/" in text]


def test_shards_are_not_copied_to_a_folder_of_that_name() -> None:
    with pytest.raises(ValueError, match=r"^prompts\.cache: got '~/c', and there is no home folder"):
        shard_files("http://127.0.0.1:9/corpus", cache="~/c")


def test_what_needs_no_home_folder_is_not_refused() -> None:
    config = load_config("tiny", [*SHARDS[1:], "priors.0.model=a~b"])
    assert make_source(config.prompts).num_prompts > 0


def test_the_cache_of_downloads_needs_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(WeightsError, match="there is no home folder, and .*; set HF_HOME or HOME to"):
        check_weights(["owner/name"], parts=("vae",), offline=True)
    with pytest.raises(hub.PlaceError, match="there is no home folder"):
        hub.check_space(1)


def test_programs_refuse_folders_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--prompt", "a frog", "--output", "~/x"])
    assert "--output: got '~/x', and there is no home folder" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"^checkpoint: got '~/run', and there is no home folder"):
        find_generator("~/run")
