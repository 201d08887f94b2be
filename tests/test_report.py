"""Ceiling, floor and standard errors on generators whose scores are known: perfect ones and shuffled ones."""

from __future__ import annotations

import json

import pytest
import torch

from scaledreamer.evaluation import report
from scaledreamer.evaluation.draws import Draw, draw_prompts
from scaledreamer.evaluation.faces import KINDS, SHARED, FaceProbe
from scaledreamer.evaluation.ground_truth import Observer
from scaledreamer.evaluation.janus import SHARES, SORTS, JanusTest
from scaledreamer.evaluation.validation import SCORES, ValidationScore
from scaledreamer.rendering.volume import VolumeRenderer
from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.grammar import SPLITS
from tests.support.evaluation_fakes import Oracle, perfect_scenes

ENTRY = {"value", "standard_error", "ceiling", "floor", "normalised"}
RATES = {"true": (0.0, 0.0, 0.0), "united": (1.0, 0.0, 1.0), "faceless": (0.0, 1.0, 1.0)}
JANUS = JanusTest(
    # Whatever the oracle's embeddings are, it sees no face in them: all objects are faceless.
    FaceProbe({SHARED: (0.0,) * 64 + (-1.0,)}),
    threshold=0.0,
    rates={sort: dict(zip(SHARES, RATES[sort], strict=True)) for sort in SORTS},
    num_objects=8,
)


@pytest.fixture(scope="module")
def observer() -> Observer:
    return Observer(VolumeRenderer(), num_views=2, lattice=16)


@pytest.fixture(scope="module")
def draws() -> list[Draw]:
    return [draw_prompts(seed, "validation", 5) for seed in range(2)]


@pytest.fixture(scope="module")
def oracle(observer: Observer, draws: list[Draw]) -> Oracle:
    oracle = Oracle()
    for draw in draws:
        seen = observer.observe_truth(draw.meanings, start_azimuth_deg=draw.start_azimuth_deg)
        oracle.learn(seen.images, draw.meanings)
    return oracle


def shuffled_scenes(draws: list[Draw]):
    """The generator that makes each asset for another prompt: exactly what the floor is made of."""
    partner = {draw.prompts[i]: draw.prompts[draw.partners[i]] for draw in draws for i in range(5)}
    return lambda prompts: perfect_scenes([partner[prompt] for prompt in prompts])


# --- whole reports ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def perfect(observer: Observer, draws: list[Draw], oracle: Oracle) -> dict:
    return report.evaluate_scenes(
        perfect_scenes,
        draws,
        encoder=oracle,
        observer=observer,
        janus_test=JANUS,
        gallery_size=4,
        seconds=[1.0, 3.0],
    )


def test_a_perfect_generator_is_at_the_ceiling(perfect):
    for name in ("hard_r1", "plain_r1", "iou", "iou_aligned", "silhouette_iou"):
        # Another batch rounds distances differently, which turns a few voxels on the very surface.
        rounding = 2e-3 if "iou" in name else 0.0
        assert perfect[name]["value"] == pytest.approx(1.0, abs=rounding)
        assert perfect[name]["ceiling"] == 1.0
        assert perfect[name]["normalised"] == pytest.approx(1.0, abs=2 * rounding + 1e-6)
        assert perfect[name]["standard_error"] <= rounding
        assert perfect[name]["floor"] < 0.9
    assert perfect["similarity"]["value"] == pytest.approx(1.0) == perfect["similarity"]["ceiling"]
    assert perfect["image_error"]["value"] == pytest.approx(0.0, abs=1e-3)
    assert perfect["image_error"]["floor"] > 0.02
    assert perfect["image_error"]["normalised"] == pytest.approx(1.0, abs=0.05)
    assert perfect["plain_r1"]["floor"] < 0.5


def test_a_report_has_every_score_with_its_five_numbers_and_is_json(perfect):
    names = {"hard_r1", "plain_r1", "similarity", "iou", "iou_aligned", "silhouette_iou", "image_error"}
    names |= {*SHARES, "seconds_per_asset"}
    assert all(set(perfect[name]) == ENTRY for name in names)
    assert set(perfect["hard_r1_by_attribute"]) == set(grammar.ATTRIBUTES)
    assert all(set(entry) == ENTRY for entry in perfect["hard_r1_by_attribute"].values())
    for name, share in (("two_faced", 0.0), ("faceless", 1.0), ("janus", 1.0)):
        assert perfect[name]["value"] == perfect[name]["ceiling"] == share
        assert perfect[name]["floor"] is perfect[name]["normalised"] is None
    seconds = perfect["seconds_per_asset"]
    assert (seconds["value"], seconds["standard_error"]) == (2.0, pytest.approx(1.0))
    assert seconds["ceiling"] is seconds["floor"] is seconds["normalised"] is None
    assert perfect["gallery_size"] == 4 and perfect["num_assets"] == 10
    assert perfect["num_distractors"]["least"] >= 22
    assert perfect["janus_validation"] == JANUS.summary and JANUS.is_valid
    assert json.loads(json.dumps(perfect, allow_nan=False)) == perfect


def test_attributes_that_no_object_has_are_none(observer, oracle):
    meanings = tuple(grammar.Meaning(kind, "red") for kind in ("ball", "cube", "cone"))
    prompts = tuple(grammar.caption(meaning) for meaning in meanings)
    draw = Draw(0, meanings, prompts, 0.0, (1, 2, 0))
    found = report.evaluate_scenes(
        perfect_scenes, [draw], encoder=oracle, observer=observer, janus_test=JANUS
    )
    assert found["hard_r1_by_attribute"]["wear"] == dict.fromkeys(ENTRY)
    assert found["hard_r1_by_attribute"]["color"]["value"] is not None
    assert all(found[name]["value"] is None for name in SHARES), "none of them can have a face"
    assert found["gallery_size"] == 3
    text = report.format_table(found)
    assert "plain R@1 of 3" in text and len({len(line) for line in text.splitlines()}) == 1


def test_a_generator_that_ignores_its_prompts_is_at_the_floor(perfect, observer, draws, oracle):
    measured = [
        report.measure(shuffled_scenes(draws), draw, oracle, observer, gallery_size=5) for draw in draws
    ]
    found = report.summarise(measured)
    assert found["hard_r1"]["value"] < 0.5 and found["plain_r1"]["value"] < 0.5
    for name in ("iou", "iou_aligned", "silhouette_iou", "image_error"):
        # The same pairs of objects as in the floor of the perfect generator, with their parts exchanged.
        floor = perfect[name]["floor"]
        assert found[name]["value"] == pytest.approx(floor, abs=0.02)
    assert found["janus"]["value"] is None and found["janus_validation"] is None


def test_only_kinds_that_can_have_a_face_are_judged(observer, oracle):
    meanings = tuple(grammar.Meaning(kind, "red", "white") for kind in ("frog", "chair", "mug", "cat"))
    prompts = tuple(grammar.caption(meaning) for meaning in meanings)
    oracle.learn(observer.observe_truth(meanings, start_azimuth_deg=0.0).images, meanings)
    made: list[str] = []

    def make(prompts: list[str]):
        made.extend(prompts)
        return perfect_scenes(prompts)

    measured = report.measure(make, Draw(0, meanings, prompts, 0.0, (1, 2, 3, 0)), oracle, observer, JANUS)
    assert {meaning.kind for meaning in meanings} & set(KINDS) == {"frog", "cat"}
    assert made[4:] == [prompts[0], prompts[3]], "after all of them for the other scores"
    for column in (measured.value, measured.ceiling):
        judged = [not value.isnan() for value in column["faceless"]]
        assert judged == [True, False, False, True] and column["faceless"][0] == 1


# --- numbers ------------------------------------------------------------------------------------------------


def test_clustered_standard_error_of_single_observations_is_the_usual_one():
    values = torch.tensor([1.0, 0.0, 0.5, 0.25])
    mean, error = report.clustered_mean(values, range(4))
    assert mean == pytest.approx(0.4375)
    assert error == pytest.approx(values.std().item() / 2)


def test_clustered_standard_error_does_not_believe_repetitions():
    values = torch.tensor([1.0, 0.0, 0.5])
    _, error = report.clustered_mean(values, "abc")
    mean, repeated = report.clustered_mean(values.repeat(4), "abc" * 4)
    assert mean == pytest.approx(0.5) and repeated == pytest.approx(error)


def test_clustered_mean_leaves_out_what_is_not_there():
    nan = torch.nan
    assert report.clustered_mean(torch.tensor([nan, 1.0, nan, 0.0]), "abcd")[0] == 0.5
    assert report.clustered_mean(torch.tensor([nan, 1.0]), "ab") == (1.0, None)
    assert report.clustered_mean(torch.tensor([nan, nan]), "ab") == (None, None)


def test_normalised_runs_from_floor_to_ceiling():
    def measurement(value: float, ceiling: float, floor: float) -> report.Measurement:
        columns = [{"hard_r1": torch.full((2,), number)} for number in (value, ceiling, floor)]
        meanings = [grammar.Meaning("ball", "red"), grammar.Meaning("ball", "blue")]
        return report.Measurement(meanings, *columns, num_distractors=[30, 40], gallery_size=2)

    found = report.summarise([measurement(0.5, 0.9, 0.1)])
    assert found["hard_r1"]["normalised"] == pytest.approx(0.5)
    assert found["above_floor"]["hard_r1"]["value"] == pytest.approx(0.4)
    assert found["num_distractors"] == {"mean": 35, "least": 30, "most": 40}
    assert report.summarise([measurement(0.5, 0.3, 0.3)])["hard_r1"]["normalised"] is None


# --- draws --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_a_draw_depends_on_its_seed_alone_and_has_distinct_meanings_of_its_split(split):
    draw = draw_prompts(3, split, 40)
    assert draw == draw_prompts(3, split, 40) != draw_prompts(4, split, 40)
    assert len(set(draw.meanings)) == 40
    assert {grammar.split_of(meaning) for meaning in draw.meanings} == {split}
    assert [grammar.parse(prompt) for prompt in draw.prompts] == list(draw.meanings)
    assert len({meaning.kind for meaning in draw.meanings}) > 10


def test_partners_are_a_derangement():
    for seed in range(20):
        partners = draw_prompts(seed, "unseen", 2 + seed).partners
        assert sorted(partners) == list(range(2 + seed))
        assert all(partner != i for i, partner in enumerate(partners))


def test_a_draw_may_take_every_meaning_of_a_part_of_the_world(monkeypatch):
    balls = [
        grammar.Meaning("ball", color, None, pattern)
        for color in grammar.COLORS
        for pattern in (None, "striped")
    ]
    monkeypatch.setattr(grammar, "split_of", lambda meaning: "unseen" if meaning in balls else "seen")
    assert set(draw_prompts(0, "unseen", 20, kinds=["ball"], max_extras=1).meanings) == set(balls)
    assert set(draw_prompts(0, "unseen", 10, max_extras=0).meanings) == set(balls[::2])
    fewer = draw_prompts(0, "unseen", 64, kinds=["ball"], max_extras=0, or_fewer=True)
    assert set(fewer.meanings) == set(balls[::2]) and len(fewer.partners) == 10
    with pytest.raises(ValueError, match="got 21; this part of the unseen split accepts 2 to 20"):
        draw_prompts(0, "unseen", 21, kinds=["ball"], max_extras=1)


def test_a_draw_refuses_unknown_splits_and_kinds():
    with pytest.raises(ValueError, match="split: got 'test'"):
        draw_prompts(0, "test", 4)
    with pytest.raises(ValueError, match="kinds: got 'dog'; accepted are frog"):
        draw_prompts(0, "unseen", 4, kinds=["dog"])


# --- while training, and pictures ---------------------------------------------------------------------------


def test_validation_score_prefers_the_generator_that_follows_its_prompts(monkeypatch):
    oracle, renderer = Oracle(), VolumeRenderer()
    draw = draw_prompts(0, "validation", 3, max_extras=1)
    looking = Observer(renderer, num_views=2, lattice=32)
    oracle.learn(
        looking.observe_truth(draw.meanings, start_azimuth_deg=draw.start_azimuth_deg).images, draw.meanings
    )
    score = ValidationScore(num_prompts=3, max_extras=1, encoder=oracle, renderer=renderer)
    good = score(perfect_scenes, 100)
    assert good == {"score": 1.0, "hard_r1": 1.0, "plain_r1": 1.0, "iou": 1.0, "silhouette_iou": 1.0}
    assert tuple(good) == SCORES
    bad = score(lambda prompts: perfect_scenes(["a red donut"] * len(prompts)), 100)
    assert bad["score"] < 0.5 and score(perfect_scenes, 200) == good
