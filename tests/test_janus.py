"""Second and missing faces: objects whose answer is known, thresholds in closed form, and the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scaledreamer.cameras import orbit_cameras
from scaledreamer.evaluation import faces, janus, janus_cache
from scaledreamer.evaluation.clip_scores import TINY_CLIP, TinyClip
from scaledreamer.evaluation.draws import draw_prompts
from scaledreamer.evaluation.faces import SHARED, FaceProbe
from scaledreamer.evaluation.ground_truth import Observer
from scaledreamer.evaluation.janus import JanusTest
from scaledreamer.rendering.volume import VolumeRenderer
from scaledreamer.tinyworld import dataset, grammar, objects
from scaledreamer.tinyworld.grammar import KINDS, Meaning
from scaledreamer.tinyworld.objects import primitives_of, two_faced, without_face
from scaledreamer.tinyworld.scene import WorldScene
from tests.support.analytic_scenes import AnalyticScene, ball

CAT = Meaning("cat", "orange", "green", wear="hat", wear_color="red")
RED = FaceProbe({SHARED: (1.0, -1.0, 0.0)})
SMALL = Observer(VolumeRenderer(), image_size=12)


class RedAndBlue:
    """Embeds an image as how much red and how much blue is in it."""

    def embed_images(self, images: Tensor) -> Tensor:
        red, _, blue = (images - 0.5).clamp(min=0).mean((2, 3)).unbind(1)
        return F.normalize(torch.stack([red, blue], 1) + 1e-6, dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        raise AssertionError("no text is asked for")


class Blind(RedAndBlue):
    """Sees the same everywhere."""

    def embed_images(self, images: Tensor) -> Tensor:
        return torch.full((len(images), 2), 0.5**0.5)


def red_faced(meanings: Sequence[Meaning], device: object = "cpu", *, parts: Callable) -> AnalyticScene:
    """Blue balls with faces, which are red halves, where the parts have them."""

    def color(points: Tensor) -> Tensor:
        is_front = points[..., :1] > 0
        is_red = {primitives_of: is_front, two_faced: torch.ones_like(is_front)}
        red = is_red.get(parts, torch.zeros_like(is_front)).float()
        return torch.cat([red, torch.zeros_like(red), 1 - red], -1)

    shape = ball((0.0, 0.0, 0.0), 0.6)
    return AnalyticScene(lambda points: shape(points).expand(len(meanings), -1), color)


# --- objects whose answer is known --------------------------------------------------------------------------


def test_two_faced_is_the_nearer_of_both_and_looks_the_same_from_both_sides():
    scene, plain = WorldScene([CAT], parts=two_faced), WorldScene([CAT])
    points = torch.rand(1, 500, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    turned = points * torch.tensor([-1.0, -1.0, 1.0])
    torch.testing.assert_close(scene.sdf(points), torch.minimum(plain.sdf(points), plain.sdf(turned)))
    nearer = torch.where((plain.sdf(points) <= plain.sdf(turned))[..., None], points, turned)
    is_same = (scene.query(points)[1] - plain.query(nearer)[1]).abs().amax(-1) < 1e-4
    assert is_same.float().mean() > 0.98, "but where both meet, and the light changes"
    cameras = orbit_cameras(2, elevation_deg=15.0, distance=2.6, fov_deg=41.0)
    front, back = VolumeRenderer()(scene, cameras, 24, 24).rgb[0]
    torch.testing.assert_close(front, back, atol=2e-3, rtol=0)
    one_sided_front, one_sided_back = VolumeRenderer()(plain, cameras, 24, 24).rgb[0]
    assert (one_sided_front - one_sided_back).abs().mean() > 0.02


def test_every_kind_with_a_front_has_a_face_but_the_chair_and_it_lies_before_the_middle():
    assert {name for name, kind in KINDS.items() if kind.has_front} - set(faces.KINDS) == {"chair"}
    assert not any(objects.has_face(name) for name, kind in KINDS.items() if not kind.has_front)
    for kind in faces.KINDS:
        parts = objects.SHAPES[kind]()
        assert all(p.at[0] > 0 for p in parts if p.is_face), kind
        assert 0 < sum(p.is_face for p in parts) < len(parts), kind


def test_an_object_without_its_face_is_the_same_from_behind():
    cat, faceless = WorldScene([CAT]), WorldScene([CAT], parts=without_face)
    assert len(without_face(CAT)) == len(primitives_of(CAT)) - 5
    cameras = orbit_cameras(2, elevation_deg=15.0, distance=2.6, fov_deg=41.0)
    difference = VolumeRenderer()(cat, cameras, 24, 24).rgb - VolumeRenderer()(faceless, cameras, 24, 24).rgb
    at_front, at_back = difference[0].abs().mean((1, 2, 3))
    assert at_front > 0.01 and at_back < 1e-3


# --- the test -----------------------------------------------------------------------------------------------


def test_a_second_face_and_a_missing_one_are_told_by_front_and_back():
    scores = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, -1.0], [-1.0, 1.0]])  # the last is back to front
    verdict = {name: value.tolist() for name, value in janus.judge(scores, 0.0).items()}
    assert verdict == {"two_faced": [0, 1, 0, 0], "faceless": [0, 0, 1, 1], "janus": [0, 1, 1, 1]}


def test_the_threshold_is_the_middle_of_the_best_ones():
    true = torch.tensor([[3.0, -3.0], [4.0, -1.0]])
    united, faceless = torch.full((2, 2), 5.0), torch.full((2, 2), -2.0)
    found = janus.choose_threshold({"true": true, "united": united, "faceless": faceless})
    assert found == 1.0, "all answers are right between -1 and 3"
    # What the back of a faceless object scores decides nothing, so that these are all as good as each other.
    backs = torch.tensor([[-2.0, back] for back in (0.0, 1.0, 2.0)])
    assert janus.choose_threshold({"true": true, "united": united, "faceless": backs}) == 1.5
    # One back of ten is as much of a face as fronts are: wrong for one tenth rather than for more.
    true = torch.cat([torch.tensor([[3.0, 3.5]]), torch.tensor([[3.0, -3.0]]).expand(9, 2)])
    found = janus.choose_threshold({"true": true, "united": united, "faceless": faceless})
    assert -2 < found < 3
    assert janus.judge(true, found)["two_faced"].mean() == pytest.approx(0.1)


def test_a_test_made_of_objects_that_can_be_told_apart_is_valid(monkeypatch):
    monkeypatch.setattr(janus, "WorldScene", red_faced)
    test = janus.make_janus_test(RedAndBlue(), SMALL, num_objects=3, probe=RED)
    assert test.rates == {
        "true": {"two_faced": 0, "faceless": 0, "janus": 0},
        "united": {"two_faced": 1, "faceless": 0, "janus": 1},
        "faceless": {"two_faced": 0, "faceless": 1, "janus": 1},
    }
    assert test.is_valid and test.num_objects == 3 and test.summary["is_valid"] is True
    for parts, sort in ((primitives_of, "true"), (two_faced, "united"), (without_face, "faceless")):

        def make(rows: Sequence[int], parts: Callable = parts) -> AnalyticScene:
            return red_faced([CAT] * len(rows), parts=parts)

        verdicts = test.verdicts(RedAndBlue(), SMALL, make, [CAT] * 3, batch_size=2)
        assert {name: value.tolist() for name, value in verdicts.items()} == {
            name: [rate] * 3 for name, rate in test.rates[sort].items()
        }


def test_probe_threshold_and_rates_come_from_three_splits(monkeypatch):
    apart = {"true": [[3.0, -3.0]], "united": [[5.0, 5.0]], "faceless": [[-2.0, -2.0]]}

    def known_scores(encoder: object, probe: object, observer: object, meanings: Sequence[Meaning]) -> dict:
        (split,) = {grammar.split_of(meaning) for meaning in meanings}
        shift = {"validation": 0.0, "unseen": 4.0}[split]
        return {sort: torch.tensor(values) + shift for sort, values in apart.items()}

    monkeypatch.setattr(janus, "known_scores", known_scores)
    test = janus.make_janus_test(RedAndBlue(), SMALL, num_objects=3, probe=RED)
    assert test.threshold == 0.5, "in the middle of the validation split's scores"
    assert test.rates["faceless"] == {"two_faced": 1.0, "faceless": 0.0, "janus": 1.0}, "of the shifted ones"
    painted: list[Meaning] = []
    recolor = dataset.recolor
    monkeypatch.setattr(dataset, "recolor", lambda *args: painted.append(recolor(*args)) or painted[-1])
    faces.training_embeddings(RedAndBlue(), [Meaning("house", "white", "red")])
    assert {grammar.split_of(meaning) for meaning in painted} == {"seen"}


def test_a_test_that_cannot_tell_is_not_valid(monkeypatch):
    monkeypatch.setattr(janus, "WorldScene", red_faced)
    assert not janus.make_janus_test(Blind(), SMALL, num_objects=3, probe=RED).is_valid


@pytest.mark.parametrize(
    ("sort", "share", "rate"),
    [("true", "janus", 0.06), ("united", "two_faced", 0.94), ("faceless", "faceless", 0.94)],
)
def test_each_bar_makes_a_test_invalid_on_its_own(sort, share, rate):
    good = {"true": (0.02, 0.03, 0.05), "united": (0.95, 0.0, 0.95), "faceless": (0.0, 0.95, 0.95)}
    rates = {name: dict(zip(janus.SHARES, values, strict=True)) for name, values in good.items()}
    assert JanusTest(RED, 0.0, rates, 20).is_valid
    rates[sort][share] = rate
    assert not JanusTest(RED, 0.0, rates, 20).is_valid


# --- the probe ----------------------------------------------------------------------------------------------


class Pixels(RedAndBlue):
    """Embeds an image as its own pixels, 8 by 8 of them."""

    def embed_images(self, images: Tensor) -> Tensor:
        return F.normalize(F.adaptive_avg_pool2d(images - 0.5, 8).flatten(1), dim=-1)


def test_a_probe_fitted_on_traced_views_reads_rendered_ones():
    robot = Meaning("robot", "cyan", "yellow")
    embedded, has_face, meanings = faces.training_embeddings(Pixels(), [robot])
    assert embedded.shape == (5 * faces.VIEWS_PER_SIDE * faces.NUM_PAINTED, 192)
    assert has_face.float().mean().item() == pytest.approx(0.4)
    probe = faces.fit_probe(embedded, has_face, meanings)
    assert ((probe(embedded, meanings) > 0) == has_face).float().mean() > 0.9
    scores = janus.known_scores(Pixels(), probe, Observer(VolumeRenderer(), image_size=24), [robot])
    shown = {sort: (values > 0).tolist() for sort, values in scores.items()}
    assert shown == {"true": [[True, False]], "united": [[True, True]], "faceless": [[False, False]]}


def test_a_probe_weighs_both_answers_the_same_and_repeats():
    embedded = F.normalize(torch.randn(400, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    has_face = embedded[:, 0] > 0.4
    meanings = [CAT] * 400
    probe = faces.fit_probe(embedded, has_face, meanings)
    assert probe == faces.fit_probe(embedded, has_face, meanings)
    called = probe(embedded, meanings) > 0
    assert called[has_face].float().mean() > 0.95 and called[~has_face].float().mean() < 0.15
    assert set(probe.weights) == {SHARED, "cat", "hat", "cat, hat"}
    direction = F.normalize(torch.tensor(probe.weights["cat"][:-1]), dim=0)
    assert direction[0] > 0.9


def test_a_probe_looks_for_another_face_on_each_kind():
    embedded = F.normalize(torch.randn(600, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    meanings = [CAT, Meaning("frog", "green", "white", wear="hat", wear_color="red")] * 300
    is_frog = torch.tensor([meaning.kind == "frog" for meaning in meanings])
    has_face = torch.where(is_frog, embedded[:, 1] < 0, embedded[:, 0] > 0)
    probe = faces.fit_probe(embedded, has_face, meanings)
    assert ((probe(embedded, meanings) > 0) == has_face).float().mean() > 0.93
    views = embedded[:4].unflatten(0, (2, 2))  # two views of each of two objects
    odds = probe(views, meanings[:2])
    by_hand = {name: torch.tensor(values) for name, values in probe.weights.items()}
    for row, kind in enumerate(("cat", "frog")):
        weight = by_hand[SHARED] + by_hand[kind] + by_hand["hat"] + by_hand[f"{kind}, hat"]
        torch.testing.assert_close(odds[row], views[row] @ weight[:-1] + weight[-1])


def test_a_kind_without_weights_of_its_own_has_those_of_all():
    probe = FaceProbe({SHARED: (1.0, 0.0, 0.5), "cat": (0.0, 2.0, 0.0)})
    odds = probe(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), [CAT, Meaning("robot", "cyan", "yellow")])
    assert odds.tolist() == [3.5, 1.5]


def test_geometries_are_those_of_kinds_with_a_face_once_each():
    found = list(faces.all_geometries())
    assert len(set(found)) == len(found) > 0.8 * (9 * 4 * 3 + 2 * 3)
    assert {meaning.kind for meaning in found} == set(faces.KINDS)
    assert {meaning.kind for meaning in found if not meaning.wear and not meaning.support} == set(faces.KINDS)
    for meaning in found:  # or there would be no colours to paint it in
        pairs = [("wear", meaning.wear), ("support", meaning.support)]
        assert not any(value and grammar.is_unseen_pair(meaning.kind, what, value) for what, value in pairs)


# --- kept tests ---------------------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch, tmp_path) -> list[JanusTest]:
    """The tests that were made, instead of found; the user's cache is a new folder."""
    made: list[JanusTest] = []

    def make(encoder: object, observer: Observer, *, num_objects: int) -> JanusTest:
        rates = {sort: dict.fromkeys(janus.SHARES, 0.25 + len(made)) for sort in janus.SORTS}
        made.append(JanusTest(FaceProbe({SHARED: (0.1, 1 / 3, 0.2)}), 0.3, rates, num_objects))
        return made[-1]

    monkeypatch.setattr(janus_cache, "make_janus_test", make)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


class Known(Blind):
    """An encoder with a name."""

    def __init__(self, fingerprint: str = "a") -> None:
        self.fingerprint = fingerprint


NOWHERE = Path("/nowhere/janus_test.json")


def find(encoder: RedAndBlue, observer: Observer = SMALL, num_objects: int = 8) -> JanusTest:
    return janus_cache.find_or_make_test(encoder, observer, num_objects, shipped=NOWHERE)


def test_a_test_is_made_once_for_each_encoder_and_renderer(made):
    first = find(Known())
    assert find(Known()) == first and find(Known(), num_objects=5) == first and len(made) == 1
    find(Known("b"))
    find(Known(), Observer(VolumeRenderer(beta=1 / 99), image_size=12))
    find(Known(), Observer(VolumeRenderer(), image_size=16))
    assert len(made) == 4
    assert find(Known(), num_objects=9).num_objects == 9 and len(made) == 5, "made of more objects"
    find(Blind())
    find(Blind())
    assert len(made) == 7, "an encoder without a fingerprint is not known again"


def test_memory_limits_and_devices_do_not_change_a_test():
    sharp = VolumeRenderer().for_scores()
    key = janus_cache.test_key("a", Observer(sharp))
    assert janus_cache.test_key("a", Observer(VolumeRenderer(memory_gib=2.0).for_scores(), "cuda")) == key
    assert janus_cache.test_key("a", Observer(VolumeRenderer(num_resampled=4).for_scores())) == key


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: "",
        lambda text: "[1]",
        lambda text: '"text"',
        lambda text: text.replace('"threshold": 0.3', '"threshold": 0.4'),
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "sha256"}),
        lambda text: "[" * 100_000,
        lambda text: "\ud800",
    ],
)
def test_a_damaged_file_is_passed_over_and_replaced(made, tmp_path, damage):
    first = find(Known())
    (path,) = (tmp_path / "cache").rglob("*.json")
    path.write_bytes(damage(path.read_text()).encode(errors="surrogatepass"))
    assert find(Known()) == made[1] != first
    assert find(Known()) == made[1] and len(made) == 2


def test_a_cache_that_cannot_be_written_is_none(made, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("stays")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    find(Known())
    find(Known())
    assert len(made) == 2 and (tmp_path / "file").read_text() == "stays"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    find(Known())
    assert len(list((tmp_path / ".cache/scaledreamer/janus").iterdir())) == 1


def test_the_shipped_test_is_that_of_the_shipped_clip_valid_and_right():
    encoder, observer = TinyClip.from_pretrained(), Observer(VolumeRenderer().for_scores())
    key = janus_cache.test_key(encoder.fingerprint, observer)
    test = janus_cache.load_test(TINY_CLIP / janus_cache.FILE, key, 80)
    assert test is not None, "make it again: python -m tools.tinyworld.evaluate_clip --only-janus"
    assert test.is_valid and set(faces.KINDS) < set(test.probe.weights)
    meanings = draw_prompts(3, "unseen", 2, kinds=faces.KINDS).meanings
    scores = janus.known_scores(encoder, test.probe, observer, meanings)
    for sort, expected in (("true", [1, 0]), ("united", [1, 1]), ("faceless", [0, 0])):
        assert (scores[sort] > test.threshold).int().tolist() == [expected] * 2, sort
