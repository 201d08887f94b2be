"""What a message tells the user to set can be set, and cures what it is about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from scaledreamer.config import Config, load_config
from scaledreamer.evaluation.validation import make_validation

ROOT = Path(__file__).parent.parent


def advised(message: str) -> list[list[str]]:
    """The settings that a message advises: alternatives, each of one setting or more that go together."""
    _, _, advice = message.rstrip(".").lower().partition("set ")
    parts = re.split(r",? or ", advice)
    return [found for part in parts if (found := re.findall(r"[a-z]\w*(?:\.\w+)+=[^\s,]+", part))]


def check(path: Path, overrides: list[str]) -> Config:
    """Reads a configuration and checks what needs no weights."""
    config = load_config(path, overrides)
    if config.evaluation.every is not None and not config.prompts.is_tinyworld:
        make_validation(config, torch.device("cpu"))
    return config


@pytest.mark.parametrize(
    "settings",
    [
        {"prompts": {"text": "a mug", "name": "core_15"}},
        {"prompts": {"text": "a mug", "file": "a.txt"}},
        {"prompts": {"file": "a.txt", "shards": "folder"}},
        {"prompts": {"text": "a mug", "shard_size": 4}},
        {"prompts": {"text": "a mug", "kinds": ["cat"], "max_extras": 1}},
        {"prompts": {"text": "a mug", "holdout": 0.1}},
        {"prompts": {"text": "a mug", "section": "test"}},
        {"prompts": {"shards": "folder", "shard_size": 4}},
        {"prompts": {"shards": "folder", "limit": 4}},
        {"prompts": {"text": "a mug"}, "evaluation": {"every": 10}},
        {"priors": [{"tinyworld": {"cuda_graphs": True}}]},
        {"optimizer": {"name": "adam", "momentum": 0.5}},
    ],
    ids=str,
)
def test_settings_that_a_message_advises_cure_what_a_file_sets(
    settings: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError) as error:
        check(path, [])
    ways = advised(str(error.value))
    assert ways, error.value
    for overrides in ways:
        check(path, overrides)


def test_no_message_on_a_setting_says_to_leave_it_out() -> None:
    package = ROOT / "scaledreamer"
    named = ["assemble", "downloads", "exported", "generators/__init__", "prompts/assembly"]
    named += ["evaluation/validation", "priors/running", "priors/latent_diffusion", "weights/find"]
    for module in [*(package / "config").glob("*.py"), *(package / f"{name}.py" for name in named)]:
        text = module.read_text(encoding="utf-8")
        assert not re.search(r"leave (it|them) out|leave out one|[Ll]eave \{\w+\} out", text), module
