"""What `prompts` of a configuration becomes: lists, shards made once, embeddings of its encoder, an error."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from scaledreamer.cli.train import main
from scaledreamer.config import PromptSettings, parse_config
from scaledreamer.prompt_text import normalize_prompt
from scaledreamer.prompts.assembly import check_embeddings, make_source
from scaledreamer.prompts.conditioner import TextConditioner
from scaledreamer.prompts.corpus import comparison_key, read_prompts, split_prompts
from scaledreamer.prompts.order import EpochOrder
from scaledreamer.prompts.shard_format import Encoder, shard_name
from scaledreamer.prompts.shard_writer import build_shards
from scaledreamer.prompts.source import PromptList
from scaledreamer.weights.places import TINY_PRIOR
from tests.support.random_models import write_random_prior
from tests.support.runs import write_config

ROOT = Path(__file__).parent.parent
PROMPTS = [f"prompt {i}" for i in range(30)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def test_a_file_in_memory_and_in_shards_holds_the_same_prompts(corpus: Path, tmp_path: Path) -> None:
    plain = make_source(PromptSettings(file=str(corpus)))
    sharded = make_source(PromptSettings(file=str(corpus), shard_size=8, cache=str(tmp_path)))
    assert isinstance(plain, PromptList)
    read = [sharded.read(i // 8, [i % 8]).prompts[0] for i in range(30)]
    assert sorted(read) == sorted(plain.read(0, range(30)).prompts) == sorted(PROMPTS)
    assert read != plain.read(0, range(30)).prompts


def test_shards_of_a_corpus_are_made_once_and_anew_when_it_changes(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = PromptSettings(file=str(corpus), shard_size=8, cache=str(tmp_path / "cache"))
    first = make_source(config)
    assert "made shard 4 of" in capsys.readouterr().out
    assert make_source(config).fingerprint == first.fingerprint
    assert capsys.readouterr().out == ""
    corpus.write_text("\n".join([*PROMPTS, "one more"]))
    again = make_source(config)
    assert (again.num_prompts, first.num_prompts) == (31, 30)
    assert again.fingerprint != first.fingerprint


def test_stored_embeddings_belong_to_the_conditioner(tmp_path: Path) -> None:
    conditioner = TextConditioner.from_pretrained(TINY_PRIOR)
    other = TextConditioner.from_pretrained(write_random_prior(tmp_path / "other"))

    def encode(prompts: list[str]) -> dict[str, np.ndarray]:
        return {name: part.numpy() for name, part in conditioner(prompts)._asdict().items()}

    build_shards(
        PROMPTS[:4],
        tmp_path / "shards",
        shard_size=8,
        corpus="test",
        encode=encode,
        encoder=Encoder("tinyworld", conditioner.fingerprint()),
    )
    source = make_source(PromptSettings(shards=str(tmp_path / "shards")))
    assert check_embeddings(source, conditioner)
    with pytest.raises(ValueError, match=r"prompts\.shards: they carry embeddings of the encoder tinyworld"):
        check_embeddings(source, other)
    assert not check_embeddings(PromptList(PROMPTS), other)


def test_a_run_takes_stored_embeddings(tmp_path: Path) -> None:
    """Embeddings that are not the encoder's show that the run has read them: its images are others."""
    prior = write_random_prior(tmp_path / "prior")
    conditioner = TextConditioner.from_pretrained(prior)

    def encode(prompts: list[str]) -> dict[str, np.ndarray]:
        parts = conditioner(prompts)._asdict()
        return {name: part.numpy() if name == "mask" else part.numpy() + 1 for name, part in parts.items()}

    encoder = Encoder("test", conditioner.fingerprint())
    build_shards(PROMPTS, tmp_path / "shards", shard_size=8, corpus="x", encode=encode, encoder=encoder)
    metrics = []
    for use in (True, False):
        run = tmp_path / f"run-{use}"
        config = write_config(
            tmp_path,
            prior,
            prompts__shards=str(tmp_path / "shards"),
            prompts__file=None,
            prompts__use_embeddings=use,
            training__output=str(run),
            training__max_steps=2,
            training__log_every=1,
        )
        assert main(["--config", str(config)]) == 0
        metrics.append((run / "metrics.jsonl").read_text().splitlines()[0].partition('"seconds/')[0])
    assert metrics[0] != metrics[1]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"file": "a.txt", "shards": "b"}, "file and shards are both given"),
        ({"file": "a.txt", "name": "core_15"}, "name and file are both given"),
        ({"shards": "a", "name": "core_15"}, "name and shards are both given"),
        ({"name": "core_15", "kinds": ["cat"]}, "kinds, max_extras and extras choose from the tinyworld"),
        ({"name": "core_15", "holdout": 0.1}, "prompts.holdout: keeps out prompts of a file"),
        ({"name": "core_15", "section": "test"}, "prompts.section: chooses a list of a JSON file"),
        ({"shards": "a", "shard_size": 8}, "prompts.shard_size: the shards are made already"),
        ({"shards": "a", "limit": 8}, "prompts.limit: the shards are made already"),
        ({"name": "open_10k"}, "open_100k"),
        ({"shard_size": 0}, "prompts.shard_size"),
        ({"cache_gib": 0.0}, "prompts.cache_gib"),
    ],
)
def test_settings_that_do_not_go_together(prompts: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config({"prompts": prompts})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"caption\na frog\n", r"\.csv files are not read directly; .*scaledreamer import-prompts"),
        ("a.jsonl", b'"a"\n', r"\.jsonl files are not read directly"),
        ("a.txt.gz", b"no gzip", "cannot be read"),
        ("a.txt.gz", gzip.compress(b"a frog\n" * 500, mtime=0)[:-9], "cannot be read"),
        ("a.txt", b"a frog\n\xff\xfe\n", r"line 2: not UTF-8 text; save it as UTF-8"),
        ("a.txt", b"a frog\n" + b"x" * 2**20 + b"\n", r"line 2: the prompt has 1048576 characters"),
        ("a.txt", b"\n# only a comment\n", "no prompts in it"),
        ("a.json", b'{"train": ["a"], "train": ["b"]}', "the key 'train' stands in it twice"),
        ("a.json", b'{"train": []}', "no prompts in it"),
        ("a.json.gz", gzip.compress(b'{"test": ["a"]}', mtime=0), "no list 'train' in it; it has 'test'"),
    ],
)
def test_files_that_are_no_corpus(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / name)


def test_compressed_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(
        gzip.compress(json.dumps({"train": ["a"], "held_out": ["b"]}).encode())
    )
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("ein grüner Frosch\n".encode(), mtime=0))
    assert read_prompts(tmp_path / "a.json.gz") == ["a"]
    assert read_prompts(tmp_path / "a.json.gz", "held_out") == ["b"]
    assert read_prompts(tmp_path / "a.txt.gz") == ["ein grüner Frosch"]


def test_what_is_stored_and_what_is_compared() -> None:
    assert normalize_prompt(" a\tred\u00a0frog\x07 \ufeff") == "a red frog"
    assert normalize_prompt("cafe\u0301") == "caf\u00e9"
    same = ["A red frog.", "a RED  frog", "a red, frog!", "\uff41 red frog"]
    assert {comparison_key(text) for text in same} == {"a red frog"}
    assert comparison_key("a red frog") != comparison_key("a red-eyed frog")
    assert comparison_key("?!") == "?!"  # nothing else to compare by
    for first, second in zip(same, same[1:], strict=False):
        assert split_prompts([first], 0.5)[0] == [first] or split_prompts([second], 0.5)[1] == [second]


def test_a_shard_that_is_missing_late_in_a_run_is_one_line_and_keeps_checkpoints(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, run = tmp_path / "shards", tmp_path / "run"
    build_shards(PROMPTS, shards, shard_size=10, corpus="test")
    second = EpochOrder(len(PROMPTS), 10, seed=0).shard_after(0)
    (shards / shard_name(second)).unlink()
    config = write_config(
        tmp_path,
        write_random_prior(tmp_path / "prior"),
        prompts__shards=str(shards),
        prompts__file=None,
        training__output=str(run),
        training__checkpoint_every=1,
    )
    assert main(["--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert f"{shard_name(second)}: missing" in said and "goes on from the last checkpoint" in said
    assert "Traceback" not in said
    assert (run / "checkpoints" / "step-00000002").is_dir()
    build_shards(PROMPTS, shards, shard_size=10, corpus="test")
    assert main(["--config", str(config)]) == 0
