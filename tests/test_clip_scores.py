"""Retrieval against naive loops; the evaluator CLIP against transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scaledreamer.evaluation import clip_scores
from scaledreamer.evaluation.clip_scores import TinyClip
from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.distractors import hard_distractors
from scaledreamer.tinyworld.grammar import Meaning
from tests.support.evaluation_fakes import Oracle
from tests.support.random_models import save_tiny_clip

CUBE = Meaning("cube", "blue")
CAT = Meaning("cat", "orange", "green", wear="hat", wear_color="red")
CAR = Meaning("car", "red", "black", support="box", support_color="cyan")
MEANINGS = [CUBE, CAT, CAR, Meaning("cone", "red", pattern="striped")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


def blend_of_captions(weights: Tensor) -> Tensor:
    """Embeddings near each meaning's caption, not exactly at it, so that not every comparison is won."""
    generator = torch.Generator().manual_seed(3)
    own = Oracle().embed_texts([grammar.caption(meaning) for meaning in MEANINGS])
    return weights[:, None] * own + torch.randn(own.shape, generator=generator) / 6


def test_hard_retrieval_is_a_loop_over_captions_that_differ_in_one_attribute():
    encoder, pooled = Oracle(), blend_of_captions(torch.tensor([1.0, 0.5, 0.4, 0.1]))
    found = clip_scores.hard_retrieval(encoder, pooled, MEANINGS)
    outcomes = set()
    for i, meaning in enumerate(MEANINGS):
        rivals: dict[str, list[float]] = {}
        for attribute, other in hard_distractors(meaning):
            score = float(pooled[i] @ encoder.embed_texts([grammar.caption(other)])[0])
            rivals.setdefault(attribute, []).append(score)
        right = float(pooled[i] @ encoder.embed_texts([grammar.caption(meaning)])[0])
        for attribute, won in found.by_attribute.items():
            if attribute in rivals:
                assert bool(won[i]) == (right > max(rivals[attribute]))
                outcomes.add(bool(won[i]))
            else:
                assert won[i].isnan()
        assert bool(found.overall[i]) == all(right > max(scores) for scores in rivals.values())
        assert found.num_distractors[i] == sum(map(len, rivals.values()))
    assert outcomes == {True, False}, "the test has to see both"


def test_hard_retrieval_asks_only_for_attributes_that_an_object_can_have():
    found = clip_scores.hard_retrieval(Oracle(), blend_of_captions(torch.ones(4)), MEANINGS)
    applies = {name: (~won.isnan()).tolist() for name, won in found.by_attribute.items()}
    assert applies == {
        "color": [True] * 4,
        "part_color": [False, True, True, False],
        "pattern": [True] * 4,
        "wear": [False, True, False, False],
        "wear_color": [False, True, False, False],
        "support": [True] * 4,
        "support_color": [False, False, True, False],
    }


def test_hard_retrieval_asks_only_for_the_attributes_it_is_told():
    encoder, pooled = Oracle(), blend_of_captions(torch.tensor([1.0, 0.5, 0.4, 0.1]))
    whole = clip_scores.hard_retrieval(encoder, pooled, MEANINGS)
    asked = [{"color"}, {"wear", "pattern"}, {"support"}, {"color", "pattern"}]
    found = clip_scores.hard_retrieval(encoder, pooled, MEANINGS, attributes=asked)
    for i, names in enumerate(asked):
        told = {name for name, won in found.by_attribute.items() if not won[i].isnan()}
        assert told == names
        assert all(found.by_attribute[name][i] == whole.by_attribute[name][i] for name in names)
        assert found.overall[i] == min(whole.by_attribute[name][i] for name in names)
    assert found.num_distractors.lt(whole.num_distractors).all()


def test_a_tie_is_lost():
    class Blind(Oracle):
        def embed_texts(self, texts):
            return torch.ones(len(texts), 4) / 2

    pooled = torch.ones(4, 4) / 2
    hard = clip_scores.hard_retrieval(Blind(), pooled, MEANINGS)
    assert hard.overall.sum() == 0
    assert all(won.nansum() == 0 for won in hard.by_attribute.values())
    assert clip_scores.plain_retrieval(Blind(), pooled, MEANINGS, 4).sum() == 0


@pytest.mark.parametrize("gallery_size", [1, 2, 3, 4])
def test_plain_retrieval_is_a_loop_over_a_gallery_of_the_stated_size(gallery_size):
    encoder, pooled = Oracle(), blend_of_captions(torch.tensor([0.3, 0.2, 0.1, 0.05]))
    texts = encoder.embed_texts([grammar.caption(meaning) for meaning in MEANINGS])
    expected = []
    for i in range(4):
        others = [(i + k) % 4 for k in range(1, gallery_size)]
        expected.append(float(all(pooled[i] @ texts[i] > pooled[i] @ texts[j] for j in others)))
    assert clip_scores.plain_retrieval(encoder, pooled, MEANINGS, gallery_size).tolist() == expected


def test_plain_retrieval_refuses_a_gallery_without_enough_distinct_meanings():
    pooled = blend_of_captions(torch.ones(4))
    with pytest.raises(ValueError, match="gallery of 5: needs as many distinct meanings, got 4"):
        clip_scores.plain_retrieval(Oracle(), pooled, MEANINGS, 5)
    with pytest.raises(ValueError, match="got 3"):
        clip_scores.plain_retrieval(Oracle(), pooled, [CUBE, CUBE, CAT, CAR], 4)


def test_similarity_is_the_mean_cosine_over_views(folder):
    clip = TinyClip.from_pretrained(folder)
    images = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pooled = clip_scores.pool_views(clip, images)
    text = clip.embed_texts([grammar.caption(CAT)])[0]
    expected = [sum(float(clip.embed_images(view[None])[0] @ text) for view in views) / 3 for views in images]
    torch.testing.assert_close(clip_scores.similarity(clip, pooled, [CAT, CAT]), torch.tensor(expected))


def test_clip_embeddings_are_those_of_transformers_with_whole_padding_and_images_from_minus_one_to_one(
    folder,
):
    from transformers import CLIPModel, CLIPTokenizer

    model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    captions = ["a cube", *(grammar.caption(meaning, 2) for meaning in MEANINGS)]
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        padded = tokenizer(captions, padding="max_length", max_length=32, return_tensors="pt")
        texts = model.get_text_features(**padded).pooler_output
        pictures = model.get_image_features(pixel_values=2 * images - 1).pooler_output
    clip = TinyClip.from_pretrained(folder)
    for got, expected in ((clip.embed_texts(captions), texts), (clip.embed_images(images), pictures)):
        torch.testing.assert_close(got.norm(dim=-1), torch.ones(len(got)))
        expected = expected / expected.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_clip_embeds_each_caption_once_in_any_order_and_cuts_long_ones(folder):
    clip = TinyClip.from_pretrained(folder)
    one, two = clip.embed_texts(["a blue cube", "a red cat wearing a hat"])
    again = clip.embed_texts(["a red cat wearing a hat", "a blue cube", "a blue cube", "cat " * 100])
    torch.testing.assert_close(again[:3], torch.stack([two, one, one]), atol=0, rtol=0)
    assert again.isfinite().all()


def test_clip_brings_other_sizes_of_images_to_its_own(folder):
    clip = TinyClip.from_pretrained(folder)
    image = torch.rand(1, 3, 1, 1).expand(-1, -1, 64, 64)
    large = torch.nn.functional.interpolate(image, (128, 128))
    torch.testing.assert_close(clip.embed_images(large), clip.embed_images(image), atol=1e-5, rtol=1e-4)


def test_a_missing_or_damaged_clip_is_named(tmp_path):
    with pytest.raises(ValueError, match="evaluator CLIP .*nowhere.*config.json.*tinyworld.train_clip"):
        TinyClip.from_pretrained(tmp_path / "nowhere")
    damaged = save_tiny_clip(tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="evaluator CLIP .*damaged.*cannot be loaded"):
        TinyClip.from_pretrained(damaged)
