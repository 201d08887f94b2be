"""Work in the background of a step: in order, complete, with the errors, and really meanwhile."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from scaledreamer.prompts.conditioner import TextConditioner
from scaledreamer.training.prefetch import PrefetchThread
from scaledreamer.weights.places import TINY_PRIOR
from tests.support.judges import make_judge
from tests.support.training_fakes import FakeConditioner, RandomPrior, make_trainer

CPU = torch.device("cpu")


def test_work_is_done_in_one_other_thread_in_the_order_it_was_begun() -> None:
    background, done = PrefetchThread(CPU), []
    begun = [background.begin(lambda i=i: (done.append(i), threading.get_ident())[1]) for i in range(5)]
    threads = {work.result() for work in begun}
    assert done == list(range(5)) and len(threads) == 1 and threads != {threading.get_ident()}


def test_an_error_arrives_where_the_result_is_asked_for() -> None:
    background = PrefetchThread(CPU)
    begun = background.begin(lambda: 1 // 0)
    assert background.run(lambda: 2) == 2
    with pytest.raises(ZeroDivisionError):
        begun.result()


def test_encoding_in_the_background_is_bit_for_bit_the_same() -> None:
    """Each thread of Python has a pool of torch's of its own; of another size, sums would differ."""
    encoder = TextConditioner.from_pretrained(TINY_PRIOR)
    prompts = ["a red frog", "a striped cat wearing a blue hat"]
    here, there = encoder(prompts), PrefetchThread(CPU).run(encoder, prompts)
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert PrefetchThread(CPU).run(torch.get_num_threads) == torch.get_num_threads()


def test_texts_of_the_next_step_are_encoded_while_a_step_is_computed() -> None:
    """By the clock: encoding that takes as long as the rest of a step adds little to it."""
    seconds = 0.3

    class SlowConditioner(FakeConditioner):
        def __call__(self, prompts):
            time.sleep(seconds)
            return super().__call__(prompts)

    class SlowPrior(RandomPrior):
        def predict_noise(self, x_t, t, inputs):
            time.sleep(seconds)
            return super().predict_noise(x_t, t, inputs)

    trainer = make_trainer(judges=[make_judge(SlowPrior())], conditioner=SlowConditioner())
    trainer.step(0)
    start = time.perf_counter()
    for step in range(1, 5):
        trainer.step(step)
    elapsed = (time.perf_counter() - start) / 4
    assert seconds <= elapsed < 1.7 * seconds, elapsed


def test_what_was_drawn_ahead_is_what_would_be_drawn() -> None:
    ahead, fresh = make_trainer(accumulation_steps=2), make_trainer(accumulation_steps=2)
    for step, micro_step in [(0, 0), (0, 1), (1, 0), (1, 1), (7, 0), (3, 1)]:  # the last two: not foreseen
        batch, wanted = ahead.prefetch(step, micro_step), fresh.prefetch.draw(step, micro_step)
        assert (batch.prompts, batch.indices) == (wanted.prompts, wanted.indices)
        assert torch.equal(batch.text.pooled, wanted.text.pooled)
        assert torch.equal(batch.cameras.azimuth, wanted.cameras.azimuth)
        for one, other in zip(batch.prior_texts, wanted.prior_texts, strict=True):
            assert torch.equal(one.text.text.tokens, other.text.text.tokens)


@pytest.mark.gpu
def test_a_gpu_encodes_on_a_stream_of_its_own() -> None:
    device = torch.device("cuda")
    background, x = PrefetchThread(device), torch.randn(2048, 2048, device=device)
    wanted = x @ x
    streams = set()

    def work() -> torch.Tensor:
        streams.add(torch.cuda.current_stream().cuda_stream)
        return x @ x

    for _ in range(20):  # memory given out again must not be written while it is still read
        assert torch.equal(background.run(work), wanted)
    assert torch.cuda.current_stream().cuda_stream not in streams
