"""tools/docs/configuration.py: the page of all settings says what the code does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from scaledreamer.config import Config, flatten, load_config, valid_keys
from tools.docs import configuration as reference

ROOT = Path(__file__).parent.parent

DOCUMENT = reference.PAGE.read_text(encoding="utf-8")
MARK = " ↻"


def rows() -> dict[str, list[str]]:
    """Cells of the page's tables of settings by key, without the key."""
    lines = [line.strip("| ").split(" | ") for line in DOCUMENT.splitlines() if line.startswith("| `")]
    return {cells[0].removesuffix(MARK).strip("`"): cells[1:] for cells in lines if len(cells) == 4}


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]):
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_check_says_in_one_line_that_the_page_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    page = tmp_path / "configuration.md"
    monkeypatch.setattr(reference, "PAGE", page)
    assert reference.main(["--check"]) == 1
    assert reference.main([]) == 0 and reference.main(["--check"]) == 0
    capsys.readouterr()
    page.write_text(page.read_text().replace("1e-15", "1e-8"))
    assert reference.main(["--check"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "run python -m tools.docs.configuration" in error
    assert "1e-8" in page.read_text()


def test_every_key_is_on_the_page():
    assert [key for key in valid_keys() if f"`{key}`" not in DOCUMENT] == []


def test_rows_are_the_settings_with_the_defaults_that_a_run_has():
    defaults = flatten(Config().model_dump())
    assert rows().keys() == defaults.keys()
    stated = [f"{key}={cells[0].strip('`')}" for key, cells in rows().items()]
    assert load_config(None, stated) == Config()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("seed", "whole number, at least 0"),
        ("prompts.holdout", "number, at least 0 and below 1"),
        ("prompts.kinds", "`null` or list of texts, not empty"),
        ("cameras.fov_deg", "Range, within 1 to 170"),
        ("generator.hyper_ingp.growth", "number, above 1 and at most 4"),
        ("priors.0.asd.eta", "number, 0 to 100"),
        ("distillation.t_min", "Schedule, 0 to 1"),
        ("optimizer.lr", "Schedule, at least 0"),
        ("optimizer.betas", "two numbers, each from 0 to below 1"),
        ("training.zero_stage", "`0`, `1` or `2`"),
        ("training.tensorboard", "`true` or `false`"),
    ],
)
def test_accepted_in_words(key: str, words: str):
    assert rows()[key][1] == words


def test_a_type_without_words_is_an_error():
    class Model(BaseModel):
        odd: Annotated[dict[str, Any], Field(min_length=1)] = {}

    with pytest.raises(TypeError, match="no words for it"):
        reference.accepted(Model.model_fields["odd"])


def test_marked_on_the_page_is_what_may_change_when_a_run_goes_on():
    marked = {key for key in flatten(Config().model_dump()) if f"`{key}`{MARK}" in DOCUMENT}
    names = (
        "output max_steps minutes accumulation_steps zero_stage device deterministic text_cache log_every "
        "sample_every sample_prompts tensorboard record_prompts checkpoint_every keep_checkpoints "
        "max_skipped_steps"
    )
    assert marked == {
        *(f"training.{name}" for name in names.split()),
        *("evaluation.every", "evaluation.metric", "evaluation.num_prompts"),
        *("generator.hyper_ingp.grid_backend", "generator.field.grid_backend"),
        "generator.conv3d_net.gradient_checkpointing",
        "generator.triplane_transformer.gradient_checkpointing",
        *("prompts.cache", "prompts.shards"),
    }
    assert "may change the settings marked ↻" in DOCUMENT


def test_the_program_needs_no_torch():
    code = (
        "import sys\n"
        "from tools.docs import configuration; configuration.page()\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
