"""Marks of settings that may change: on resume, and between an export and a run that starts from it."""

from __future__ import annotations

from typing import Any

import pytest

from scaledreamer.config import (
    Config,
    Conv3DNetSettings,
    FieldSettings,
    HyperINGPSettings,
    Section,
    TriplaneTransformerSettings,
    differing_keys,
    free_settings,
    load_config,
    may_change,
    renamed_keys,
)


def settings(*overrides: str) -> dict[str, Any]:
    return load_config(None, overrides).model_dump()


@pytest.mark.parametrize(
    ("override", "differing"),
    [
        ("training.max_steps=7", []),
        ("evaluation.every=3", []),
        ("generator.hyper_ingp.grid_backend=torch", []),
        ("training.batch_size=8", ["training.batch_size is 8, was 4"]),
        ("training.ema_decay=0.5", ["training.ema_decay is 0.5, was 0.995"]),
        ("priors.0.weight=2", ["priors.0.weight is 2.0, was 1.0"]),
        ("generator.field.color_jitter=0.5", ["generator.field.color_jitter is 0.5, was 0.0"]),
        ("optimizer.lr=[1, 2]", ["optimizer.lr is [1, 2], was 0.001"]),
    ],
)
def test_a_run_goes_on_with_other_settings_only_where_they_are_marked(
    override: str, differing: list[str]
) -> None:
    assert differing_keys(settings(), settings(override)) == differing


def test_a_record_that_is_no_setting_may_not_change() -> None:
    """Such as the hash of the prompts, which stands in checkpoints beside the settings."""
    old, new = settings(), settings()
    old["prompts"]["sha256"], new["prompts"]["sha256"] = "a", "b"
    assert differing_keys(old, new) == ["prompts.sha256 is 'b', was 'a'"]
    assert not may_change("nothing.of.the.kind")


def test_settings_of_an_earlier_version_are_named_with_their_new_names() -> None:
    assert renamed_keys(settings()) == []
    old = settings()
    old["distillation"]["method"], old["priors"][0]["eta"] = "sds", 0.5
    assert renamed_keys(old) == [
        "priors.0.eta is now priors.0.asd.eta",
        "distillation.method is now priors.0.method, for each prior its own",
    ]


def test_an_item_of_a_schedule_has_its_settings_mark() -> None:
    ends = "optimizer.lr={{start: {}, end: 2}}"
    assert differing_keys(settings(ends.format(1)), settings(ends.format(3))) == [
        "optimizer.lr.start is 3, was 1"
    ]


@pytest.mark.parametrize(
    ("section", "names"),
    [
        (HyperINGPSettings, {"grid_backend"}),
        (Conv3DNetSettings, {"gradient_checkpointing"}),
        (TriplaneTransformerSettings, {"gradient_checkpointing", "dtype"}),
        (FieldSettings, {"color_jitter", "grid_backend"}),
    ],
)
def test_settings_that_a_generators_weights_do_not_depend_on(section: type[Section], names: set[str]) -> None:
    assert free_settings(section) == names


def test_the_chosen_section_is_the_one_of_the_generators_name() -> None:
    assert isinstance(Config().generator.chosen, HyperINGPSettings)
    assert isinstance(load_config(None, ["generator.name=field"]).generator.chosen, FieldSettings)
