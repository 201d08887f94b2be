"""The state-free stream: a function of (seed, step, index) and name, complete epochs, any number of ranks."""

from __future__ import annotations

import math

import pytest
import torch

from scaledreamer.prompts.source import PromptList
from scaledreamer.prompts.stream import PromptStream, SampleRandom, rank_indices


def test_random_numbers_are_known_constants() -> None:
    # Pinned: a change here silently changes every run that is resumed.
    random = SampleRandom(seed=1, step=2, index=3)
    assert random.uniform("cameras", (2,)).tolist() == pytest.approx(PINNED_UNIFORM)
    assert random.normal("noise 0", (2,)).tolist() == pytest.approx(PINNED_NORMAL)


def test_random_numbers_depend_on_seed_step_index_and_name() -> None:
    draws = [
        SampleRandom(seed, step, index).uniform(name, (4,))
        for seed in (0, 1)
        for step in (0, 1)
        for index in (0, 1)
        for name in ("a", "b")
    ]
    assert len({tuple(draw.tolist()) for draw in draws}) == 16
    assert torch.equal(SampleRandom(0, 0, 0).uniform("a", (4,)), draws[0])


def test_random_numbers_have_their_distributions() -> None:
    uniform = SampleRandom(0, 0, 0).uniform("u", (100_000,))
    normal = SampleRandom(0, 0, 0).normal("n", (100_000,))
    assert uniform.dtype == normal.dtype == torch.float32
    assert uniform.min() >= 0 and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 5 * math.sqrt(1 / 12 / 1e5)
    assert abs(normal.mean()) < 5 / math.sqrt(1e5)
    assert abs(normal.var() - 1) < 5 * math.sqrt(2 / 1e5)


def test_neighbouring_samples_are_independent() -> None:
    rows = torch.stack([SampleRandom(0, step, 0).normal("n", (1000,)) for step in range(50)])
    correlation = torch.corrcoef(rows) - torch.eye(50)
    assert correlation.abs().max() < 5.5 / math.sqrt(1000)


def test_an_epoch_shows_every_prompt_once_in_an_order_of_its_own() -> None:
    prompts = [str(i) for i in range(10)]
    stream = PromptStream(PromptList(prompts), seed=0, batch_size=4)
    shown = [prompt for step in range(5) for prompt in stream.prompts_at(step, range(4))]
    assert sorted(shown[:10]) == sorted(shown[10:]) == prompts
    assert shown[:10] != shown[10:] != prompts
    other = PromptStream(PromptList(prompts), seed=1, batch_size=4)
    assert shown != [prompt for step in range(5) for prompt in other.prompts_at(step, range(4))]


def test_steps_may_be_asked_for_in_any_order() -> None:
    prompts = [str(i) for i in range(7)]
    forward = PromptStream(PromptList(prompts), seed=3, batch_size=2)
    shown = {step: forward.samples(step, range(2))[0] for step in range(12)}
    fresh = PromptStream(PromptList(prompts), seed=3, batch_size=2)
    for step in (11, 2, 7, 0):
        assert fresh.samples(step, range(2))[0] == shown[step]


@pytest.mark.parametrize(("world_size", "accumulation_steps"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 3)])
def test_ranks_and_accumulation_only_divide_the_batch(world_size: int, accumulation_steps: int) -> None:
    parts = [
        rank_indices(
            24, rank=rank, world_size=world_size, micro_step=micro, accumulation_steps=accumulation_steps
        )
        for micro in range(accumulation_steps)
        for rank in range(world_size)
    ]
    assert sorted(i for part in parts for i in part) == list(range(24))
    stream = PromptStream(PromptList([str(i) for i in range(50)]), seed=0, batch_size=24)
    whole_prompts, whole, *_ = stream.samples(5, range(24))
    for part in parts:
        prompts, random, *_ = stream.samples(5, part)
        assert prompts == [whole_prompts[i] for i in part]
        assert torch.equal(random.uniform("cameras", 2, 4), whole.uniform("cameras", 2, 4)[list(part)])


def test_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match=r"training\.batch_size: got 6, .* give a multiple of 4"):
        rank_indices(6, rank=0, world_size=2, micro_step=0, accumulation_steps=2)


def test_no_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="prompts: none to train on"):
        PromptList([])


def test_text_encoding_is_a_small_part_of_a_step() -> None:
    """Counted on the text encoder of Stable Diffusion 2.1; an ASD step has 4.7 TFLOP an image."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        max_position_embeddings=77,
        hidden_act="gelu",
    )
    with torch.device("meta"):
        encoder = CLIPTextModel(config)
        tokens = torch.zeros(1, 77, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        encoder(tokens)
    per_text = counter.get_total_flops()
    assert per_text > 40e9  # nothing was missed
    assert 2 * per_text / 4.7e12 < 0.03


PINNED_UNIFORM = [0.45335567, 0.40544808]
PINNED_NORMAL = [0.03176458, -0.75949103]
