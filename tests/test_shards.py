"""Shards: written whole and by webdataset, read by number, resumed, damaged, cut off, far away."""

from __future__ import annotations

import errno
import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import webdataset

from scaledreamer.contracts import GeneratorText
from scaledreamer.prompts import remote, shard_writer
from scaledreamer.prompts.remote import CachedFiles, shard_files
from scaledreamer.prompts.shard_format import MANIFEST, Encoder, Index, index_name, shard_name
from scaledreamer.prompts.shard_writer import build_once, build_shards, shuffled
from scaledreamer.prompts.shards import LocalFiles, ShardedPrompts, verify_shards
from scaledreamer.prompts.stream import PromptStream

ROOT = Path(__file__).parent.parent
PROMPTS = [f"prompt {i}, größer" for i in range(50)]
SIZE = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_shards(PROMPTS, tmp_path / "corpus", shard_size=SIZE, corpus="test")
    return tmp_path / "corpus"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def encode(prompts: list[str]) -> dict[str, np.ndarray]:
    numbers = np.array([float(prompt.split()[1].rstrip(",")) for prompt in prompts])
    return {
        "pooled": np.stack([numbers, -numbers], 1),
        "tokens": numbers[:, None, None] * np.ones((1, 3, 2)),
        "mask": np.arange(3)[None] <= numbers[:, None] % 3,
    }


# --- writing and reading -----------------------------------------------------------------------------------


def test_every_prompt_is_read_by_number(folder: Path) -> None:
    source = ShardedPrompts(LocalFiles(folder))
    assert (source.num_prompts, source.shard_size, source.manifest.num_shards) == (50, 16, 4)
    assert [source.read(i // SIZE, [i % SIZE]).prompts[0] for i in range(50)] == PROMPTS
    assert source.read(2, [5, 0, 5]).prompts == [PROMPTS[37], PROMPTS[32], PROMPTS[37]]
    assert source.examples(3) == [PROMPTS[0], PROMPTS[5], PROMPTS[10]]
    assert list(verify_shards(LocalFiles(folder))) == []


def test_a_plain_webdataset_pipeline_reads_the_same(folder: Path) -> None:
    urls = [str(folder / shard_name(shard)) for shard in range(4)]
    samples = list(webdataset.compat.WebDataset(urls, shardshuffle=False))
    assert [sample["txt"].decode() for sample in samples] == PROMPTS
    assert len({sample["__key__"] for sample in samples}) == 50


def test_the_same_prompts_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    build_shards(iter(PROMPTS), tmp_path / "again", shard_size=SIZE, corpus="test")
    assert contents(tmp_path / "again") == contents(folder)


def test_a_smaller_corpus_leaves_nothing_of_a_larger_one(folder: Path) -> None:
    build_shards(PROMPTS[:20], folder, shard_size=SIZE, corpus="test")
    assert len(list(folder.glob("*.tar"))) == len(list(folder.glob("*.safetensors"))) == 2
    assert list(verify_shards(LocalFiles(folder))) == []


def test_shuffled_is_an_order_of_its_own() -> None:
    assert shuffled(PROMPTS) == shuffled(PROMPTS[::-1]) != PROMPTS
    assert sorted(shuffled(PROMPTS)) == sorted(PROMPTS)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [([], "test: no prompts in it"), (["a", " "], "the prompt is empty"), (["a\nb"], "more than one line")],
)
def test_bad_prompts_are_refused(prompts: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build_shards(prompts, tmp_path / "x", shard_size=4, corpus="test")
    assert not (tmp_path / "x" / MANIFEST).exists()


def test_embeddings_are_read_with_their_prompts(tmp_path: Path) -> None:
    encoder = Encoder("test encoder", "abc")
    build_shards(PROMPTS, tmp_path, shard_size=SIZE, corpus="test", encode=encode, encoder=encoder)
    source = ShardedPrompts(LocalFiles(tmp_path))
    assert source.manifest.encoder == encoder
    found = source.read(1, [3, 0])
    assert found.condition is not None
    expected = encode(found.prompts)
    assert found.condition["pooled"].dtype == np.float16
    for name in GeneratorText._fields:
        np.testing.assert_array_equal(found.condition[name], expected[name])
    # Through the stream, whose batch may lie in two shards: in the order of the prompts.
    stream = PromptStream(source, seed=0, batch_size=20, use_embeddings=True)
    drawn = stream.samples(0, range(20))
    assert drawn.condition is not None and drawn.condition.pooled.dtype == torch.float32
    np.testing.assert_array_equal(drawn.condition.pooled.numpy(), encode(drawn.prompts)["pooled"])
    assert list(verify_shards(LocalFiles(tmp_path))) == []


# --- interruptions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, 15, 2))
def test_an_interrupted_build_goes_on(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any of its renames: nothing half-written is read, and the same call finishes the rest."""
    build_shards(PROMPTS, tmp_path / "whole", shard_size=SIZE, corpus="test")
    real, count = os.replace, 0

    def replace(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    if number <= 9:  # 4 tars, 4 indices, 1 manifest
        with pytest.raises(KeyboardInterrupt):
            build_shards(PROMPTS, tmp_path / "broken", shard_size=SIZE, corpus="test")
        with pytest.raises(ValueError, match="no shards.json"):
            shard_files(str(tmp_path / "broken"), cache=tmp_path)
    monkeypatch.undo()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "broken").glob("shard-*.tar")}
    build_shards(PROMPTS, tmp_path / "broken", shard_size=SIZE, corpus="test")
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    kept = {
        path.name
        for path in (tmp_path / "broken").glob("shard-*.tar")
        if before.get(path.name) == path.stat().st_mtime_ns
    }
    assert len(kept) == (number - 1) // 2 if number <= 9 else True  # whole shards are not written again


def test_a_full_disk_leaves_whole_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = shard_writer.sync, 0

    def full(path: Path) -> None:
        nonlocal count
        count += 1
        if count > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path)

    monkeypatch.setattr(shard_writer, "sync", full)
    with pytest.raises(
        ValueError, match=r"cannot be written \(No space left on device\); make room.*goes on"
    ):
        build_shards(PROMPTS, tmp_path / "x", shard_size=SIZE, corpus="test")
    assert not (tmp_path / "x" / MANIFEST).exists()
    monkeypatch.undo()
    build_shards(PROMPTS, tmp_path / "x", shard_size=SIZE, corpus="test")
    assert list(verify_shards(LocalFiles(tmp_path / "x"))) == []


def test_of_several_processes_one_builds(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from scaledreamer.prompts.shard_writer import build_once
def prompts():
    for i in range(40):
        time.sleep(0.01)
        yield f"prompt {{i}}"
build_once(prompts, Path({str(tmp_path / "once")!r}), num_prompts=40, shard_size=10, corpus="test", say=print)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum("made shard 4 of test, 40 of 40 prompts" in text for text in said) == 1
    assert list(verify_shards(LocalFiles(tmp_path / "once"))) == []


def test_what_is_there_is_not_built_again(folder: Path) -> None:
    def never() -> list[str]:
        raise AssertionError("built again")

    build_once(never, folder, num_prompts=50, shard_size=SIZE, corpus="test", say=print)


# --- damage ------------------------------------------------------------------------------------------------


def damage(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x55]))


def test_a_damaged_record_is_named_counted_and_replaced(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = Index.load(folder / index_name(1))
    damage(folder / shard_name(1), int(index.offsets["txt"][3]))
    source = ShardedPrompts(LocalFiles(folder))
    for _ in range(2):
        found = source.read(1, [2, 3, 4])
        assert found.prompts == [PROMPTS[18], PROMPTS[20], PROMPTS[20]]
        assert found.num_replaced == 1
    said = capfd.readouterr().err
    assert said.count("warning") == 1
    assert "shard-000001.tar: record 3 is damaged (its checksum is wrong)" in said
    assert source.num_damaged == 1
    assert any("shard-000001.tar" in problem for problem in verify_shards(LocalFiles(folder)))


def test_making_shards_again_mends_what_is_damaged(folder: Path) -> None:
    before = contents(folder)
    damage(folder / shard_name(1), 700)
    damage(folder / index_name(2), 300)
    build_shards(PROMPTS, folder, shard_size=SIZE, corpus="test")
    assert contents(folder) == before


def test_a_shard_cut_off_is_refused_by_name(folder: Path) -> None:
    path = folder / shard_name(2)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 600)
    source = ShardedPrompts(LocalFiles(folder))
    assert source.read(0, [0]).prompts == PROMPTS[:1]
    with pytest.raises(
        ValueError, match=r"shard-000002\.tar: it has \d+ bytes, its index says \d+: it is cut off"
    ):
        source.read(2, [0])


def test_an_index_of_another_shard_is_refused(folder: Path) -> None:
    (folder / index_name(0)).write_bytes((folder / index_name(3)).read_bytes())
    with pytest.raises(
        ValueError, match=r"its index has 2 records, shards\.json says 16; they do not belong"
    ):
        ShardedPrompts(LocalFiles(folder)).read(0, [0])
    # Of the same length, so that only the checksums can tell.
    (folder / index_name(0)).write_bytes((folder / index_name(1)).read_bytes())
    if (folder / shard_name(0)).stat().st_size == (folder / shard_name(1)).stat().st_size:
        with pytest.raises(ValueError, match="16 records in a row are damaged"):
            ShardedPrompts(LocalFiles(folder)).read(0, [0])


@pytest.mark.parametrize("name", [MANIFEST, shard_name(1), index_name(1)])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=name):
        ShardedPrompts(LocalFiles(folder)).read(1, [0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "not a list of shards"),
        (lambda text: "[]", "not a list of shards"),
        (lambda text: text.replace(": 16", ": 0"), "num_prompts and shard_size are 50 and 0"),
        (lambda text: text.replace(": 16", ': 16, "shard_size": 8'), "'shard_size' stands in it twice"),
        (lambda text: text.replace('"format_version": 1', '"format_version": 9'), "format version 9"),
        (lambda text: text.replace('"fingerprint"', '"finger"'), "not a list of shards"),
    ],
)
def test_a_manifest_that_is_none_is_refused(change, message: str, folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(change(text))
    with pytest.raises(ValueError, match=message):
        ShardedPrompts(LocalFiles(folder))


@pytest.mark.parametrize("content", [b"", b"garbage" * 50, b"\xff" * 4096])
def test_an_index_that_is_none_is_refused(content: bytes, folder: Path) -> None:
    (folder / index_name(0)).write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-000000\.index\.safetensors: not an index of a shard"):
        ShardedPrompts(LocalFiles(folder)).read(0, [0])


def test_a_tar_with_a_key_twice_has_no_index(tmp_path: Path) -> None:
    from webdataset.writer import TarWriter

    with (tmp_path / "x.tar").open("wb") as file:
        writer = TarWriter(file, encoder=False)
        for _ in range(2):
            writer.write({"__key__": "a", "txt": b"text"})
        writer.close()
    with pytest.raises(ValueError, match=r"x\.tar: a\.txt stands in it twice"):
        Index.of_tar(tmp_path / "x.tar", {})
    (tmp_path / "y.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:700])
    with pytest.raises(ValueError, match=r"y\.tar: "):
        Index.of_tar(tmp_path / "y.tar", {})


# --- far away ----------------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def in_memory(folder: Path) -> Iterator[str]:
    files = fsspec.filesystem("memory")
    for name, content in contents(folder).items():
        files.pipe(f"/corpus/{name}", content)
    yield "memory://corpus"
    files.rm("/corpus", recursive=True)


@pytest.mark.parametrize("kind", ["http", "fsspec", "pipe"])
def test_shards_elsewhere_are_copied_once_and_read(
    kind: str, url: str, in_memory: str, folder: Path, tmp_path: Path
) -> None:
    place = {"http": url, "fsspec": in_memory, "pipe": f"pipe:cat {folder}/{{name}}"}[kind]
    source = ShardedPrompts(shard_files(place, cache=tmp_path / "cache"))
    assert [source.read(i // SIZE, [i % SIZE]).prompts[0] for i in range(50)] == PROMPTS
    (copies,) = (tmp_path / "cache" / "remote").iterdir()
    assert {path.name for path in copies.iterdir() if not path.name.startswith(".")} == set(contents(folder))
    for path in folder.glob("shard-*"):  # a second run needs the manifest only
        path.unlink()
    again = ShardedPrompts(shard_files(place, cache=tmp_path / "cache"))
    assert again.read(3, [1]).prompts == [PROMPTS[49]]


def test_a_changed_corpus_elsewhere_is_copied_anew(folder: Path, tmp_path: Path) -> None:
    place = f"pipe:cat {folder}/{{name}}"
    ShardedPrompts(shard_files(place, cache=tmp_path / "cache")).read(0, [0])
    build_shards(PROMPTS[::-1], folder, shard_size=SIZE, corpus="test")
    source = ShardedPrompts(shard_files(place, cache=tmp_path / "cache"))
    assert source.read(0, [0]).prompts == [PROMPTS[-1]]


def test_the_cache_keeps_to_its_limit(folder: Path, tmp_path: Path) -> None:
    size = (folder / shard_name(0)).stat().st_size
    place = f"pipe:cat {folder}/{{name}}"
    files = shard_files(place, cache=tmp_path / "cache", cache_gib=2.5 * size / 2**30)
    source = ShardedPrompts(files)
    for shard in (0, 1, 2):
        source.read(shard, [0])
        os.utime(files.local(shard_name(shard)), (shard, shard))
    assert source.read(0, [5]).prompts == [PROMPTS[5]]  # removed, but still open
    (copies,) = (tmp_path / "cache" / "remote").iterdir()
    assert {path.name for path in copies.glob("shard-*.tar")} == {shard_name(1), shard_name(2)}


def test_a_copy_that_is_not_what_its_index_says_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    damage(folder / shard_name(0), 700)
    source = ShardedPrompts(shard_files(f"pipe:cat {folder}/{{name}}", cache=tmp_path / "cache"))
    with pytest.raises(
        ValueError, match=r"shard-000000\.tar cannot be copied \(what arrived is not what its index"
    ):
        source.read(0, [0])
    (copies,) = (tmp_path / "cache" / "remote").iterdir()
    assert not list(copies.glob("shard-*.tar")) and not list(copies.glob(".writing-*"))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            "http://127.0.0.1:9/corpus",
            r"http://127\.0\.0\.1:9/corpus: shards\.json cannot be copied \(.*refused",
        ),
        ("pipe:echo no such host >&2; exit 3 # {name}", "ended with status 3: no such host"),
        ("pipe:cat shards.tar", r"must name its file: put \{name\}"),
        ("nosuch://bucket/corpus", "nosuch"),
        ("memory://nothing", "there is no such file"),
        ("https://host/corpus/{000000..000099}.tar", "tars without an index"),
        ("corpus.tar.gz", "tars without an index"),
        ("/no/such/folder", "no shards.json; give a folder that `scaledreamer make-shards` has made"),
    ],
)
def test_places_that_cannot_be_used(
    place: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    with pytest.raises(ValueError, match=message):
        ShardedPrompts(shard_files(place, cache=tmp_path))


def test_a_server_that_does_not_have_a_shard(url: str, folder: Path, tmp_path: Path) -> None:
    source = ShardedPrompts(shard_files(url, cache=tmp_path / "cache"))
    (folder / shard_name(1)).unlink()
    with pytest.raises(
        ValueError, match=rf"{url}: shard-000001\.tar cannot be copied \(the server answers 404"
    ):
        source.read(1, [0])


def test_a_folder_of_tars_alone_is_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    (folder / MANIFEST).unlink()
    with pytest.raises(ValueError, match="records cannot be found by number"):
        shard_files(str(folder), cache=tmp_path)


def test_a_full_cache_leaves_nothing_half_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ShardedPrompts(shard_files(f"pipe:cat {folder}/{{name}}", cache=tmp_path / "cache"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(remote.shutil, "copyfileobj", full)
    with pytest.raises(ValueError, match=r"No space left on device\); free space, lower prompts\.cache_gib"):
        source.read(0, [0])
    (copies,) = (tmp_path / "cache" / "remote").iterdir()
    assert {path.name for path in copies.iterdir() if not path.name.startswith(".lock")} == {MANIFEST}


# --- the stream over them ----------------------------------------------------------------------------------


def test_stream_shows_what_the_order_says_for_any_ranks_and_from_any_step(folder: Path) -> None:
    batch_size, num_steps = 10, 15  # three epochs
    whole = PromptStream(ShardedPrompts(LocalFiles(folder)), seed=3, batch_size=batch_size)
    shown = [whole.prompts_at(step, range(batch_size)) for step in range(num_steps)]
    for epoch in range(3):
        assert sorted(sum(shown[5 * epoch : 5 * epoch + 5], [])) == sorted(PROMPTS)
    for place in whole.order.locate(np.arange(20)):
        for row, sample in zip(place.rows.tolist(), place.samples.tolist(), strict=True):
            assert shown[sample // 10][sample % 10] == PROMPTS[place.shard * SIZE + row]
    for world_size in (1, 2, 5):
        part = batch_size // world_size
        for rank in range(world_size):
            stream = PromptStream(ShardedPrompts(LocalFiles(folder)), seed=3, batch_size=batch_size)
            indices = range(rank * part, rank * part + part)
            for step in range(7, num_steps):  # as resumed at step 7
                assert stream.samples(step, indices).prompts == shown[step][rank * part : rank * part + part]


# --- the tool ----------------------------------------------------------------------------------------------


def tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "make_shards.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_tool_makes_and_verifies(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(PROMPTS))
    made = tool("make", tmp_path / "a.txt", "--out", tmp_path / "out", "--shard-size", 20)
    assert made.returncode == 0, made.stderr
    assert "50 prompts in 3 shard(s)" in made.stdout
    assert tool("verify", tmp_path / "out").returncode == 0
    source = ShardedPrompts(LocalFiles(tmp_path / "out"))
    assert source.read(0, range(20)).prompts == shuffled(PROMPTS)[:20]
    damage(tmp_path / "out" / shard_name(0), 700)
    wrong = tool("verify", tmp_path / "out")
    assert (
        wrong.returncode == 1 and "shard-000000.tar: its content is not what its index says" in wrong.stderr
    )


def test_tool_stores_the_embeddings_of_an_encoder(tmp_path: Path) -> None:
    from scaledreamer.prompts.conditioner import TextConditioner
    from scaledreamer.weights.places import TINY_PRIOR

    (tmp_path / "a.txt").write_text("a red frog\na blue cat\na robot\n")
    made = tool(
        "make", tmp_path / "a.txt", "--out", tmp_path / "out", "--encoder", "tinyworld", "--keep-order"
    )
    assert made.returncode == 0, made.stderr
    source, conditioner = (
        ShardedPrompts(LocalFiles(tmp_path / "out")),
        TextConditioner.from_pretrained(TINY_PRIOR),
    )
    assert source.manifest.encoder == Encoder("tinyworld", conditioner.fingerprint())
    found = source.read(0, [0, 1, 2])
    assert found.condition is not None
    torch.testing.assert_close(
        torch.from_numpy(found.condition["tokens"]).float(),
        conditioner(found.prompts).tokens,
        atol=2e-3,
        rtol=2e-3,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "no_such_corpus", "--out", "x"], "CORPUS: got 'no_such_corpus'; accepted are"),
        (["make", "README.md", "--out", "x", "--shard-size", "0"], "--shard-size: got 0"),
        (["verify", "/no/such"], "no shards.json"),
    ],
)
def test_tool_refuses(arguments: list[str], message: str) -> None:
    refused = tool(*arguments)
    assert refused.returncode != 0
    assert message in refused.stderr and "Traceback" not in refused.stderr


def test_fingerprint_of_the_manifest_is_of_the_prompts(tmp_path: Path) -> None:
    first = build_shards(PROMPTS, tmp_path / "a", shard_size=SIZE, corpus="one name")
    second = build_shards(PROMPTS, tmp_path / "b", shard_size=SIZE, corpus="another")
    third = build_shards(PROMPTS[:-1] + ["x"], tmp_path / "c", shard_size=SIZE, corpus="one name")
    assert first.fingerprint == second.fingerprint != third.fingerprint
    assert json.loads((tmp_path / "a" / MANIFEST).read_text())["fingerprint"] == first.fingerprint
    assert isinstance(shard_files("memory://x", cache=tmp_path), CachedFiles)
