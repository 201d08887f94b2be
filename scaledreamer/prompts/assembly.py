"""From settings to the prompts of a run: in memory, or in shards that are made or copied here. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scaledreamer.config import PromptSettings
from scaledreamer.home import expand_home

if TYPE_CHECKING:
    from scaledreamer.prompts.conditioner import TextConditioner
    from scaledreamer.prompts.source import PromptSource


def make_prompts(settings: PromptSettings) -> list[str]:
    """Training prompts of a corpus or file, in memory."""
    from scaledreamer.prompts.corpus import corpus_file, read_prompts, split_prompts, tinyworld_prompts
    from scaledreamer.prompts.shard_writer import shuffled

    if settings.text is not None:
        return [settings.text]
    if settings.is_tinyworld:
        part = settings.model_dump(include={"kinds", "max_extras", "extras", "limit"})
        return tinyworld_prompts(**part)
    if settings.file is None:
        return shuffled(read_prompts(corpus_file(settings.name)))[: settings.limit]  # stored sorted
    prompts = read_prompts(settings.file, settings.section)
    kept, _ = split_prompts(prompts, settings.holdout)
    if not kept:
        raise ValueError(
            f"prompts.holdout: got {settings.holdout}, which keeps out all {len(prompts)} prompts of "
            f"{settings.file}; lower it."
        )
    return kept[: settings.limit]


def make_source(settings: PromptSettings) -> PromptSource:
    """Where the stream reads from: memory, or shards, which are made or copied here if need be."""
    from scaledreamer.prompts.remote import shard_files
    from scaledreamer.prompts.shard_writer import build_once, shuffled
    from scaledreamer.prompts.shards import LocalFiles, ShardedPrompts
    from scaledreamer.prompts.source import PromptList

    if settings.shards is not None:
        return ShardedPrompts(
            shard_files(settings.shards, cache=settings.cache, cache_gib=settings.cache_gib)
        )
    prompts = make_prompts(settings)
    if settings.shard_size is None:
        return PromptList(prompts)
    corpus = settings.file or settings.name
    digest = PromptList(prompts).fingerprint[:12]
    name = f"{Path(corpus).name.split('.')[0]}-{digest}-{settings.shard_size}"
    folder = Path(expand_home(settings.cache, "prompts.cache")) / "shards" / name
    build_once(
        lambda: shuffled(prompts),
        folder,
        num_prompts=len(prompts),
        shard_size=settings.shard_size,
        corpus=corpus,
        say=lambda text: print(text, flush=True),
    )
    return ShardedPrompts(LocalFiles(folder))


def check_embeddings(source: PromptSource, conditioner: TextConditioner) -> bool:
    """Whether a source carries embeddings of prompts.

    Raises: ValueError if they are another encoder's than the run's.
    """
    encoder = getattr(getattr(source, "manifest", None), "encoder", None)
    if encoder is None:
        return False
    ours = conditioner.fingerprint()
    if encoder.sha256 != ours:
        raise ValueError(
            f"prompts.shards: they carry embeddings of the encoder {encoder.name} ({encoder.sha256[:12]}), "
            f"and the conditioner is another one ({ours[:12]}); set conditioner to it, or "
            "prompts.use_embeddings=false to encode the prompts anew."
        )
    return True
