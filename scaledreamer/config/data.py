"""Settings of the prompts and of the generator's text encoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from scaledreamer.config.types import ExpandHome, MayChange, Model, Section, check_text, check_weights


class ExtrasSettings(Section):
    """What captions of the tinyworld mention beyond kind and colour, as relative frequencies."""

    count: Annotated[list[float], Field(min_length=3, max_length=3), AfterValidator(check_weights)] = [
        0.2,
        0.4,
        0.4,
    ]
    """How often nothing, one thing and two things are said."""
    part: Annotated[float, Field(ge=0)] = 1.0
    """How often the colour of a part."""
    pattern: Annotated[float, Field(ge=0)] = 1.0
    """How often stripes or spots."""
    wear: Annotated[float, Field(ge=0)] = 1.0
    """How often a hat, a scarf or a crown, of kinds that wear them."""
    support: Annotated[float, Field(ge=0)] = 1.0
    """How often a box or a plate."""


class PromptSettings(Section):
    """What to train on: a corpus that comes with the package, a file, or a folder of shards."""

    name: Literal["tinyworld", "core_15", "showcase_400", "compose_2500", "daily_17k", "open_100k"] = (
        "tinyworld"
    )
    """A corpus of the package; of the tinyworld, its seen split."""
    text: Annotated[str | None, AfterValidator(check_text)] = None
    """One prompt, instead of a corpus of the package."""
    file: Annotated[str | None, ExpandHome] = None
    """A .txt or .json file of prompts (also .gz), instead of a corpus of the package."""
    section: str = "train"
    """Which list of a JSON file."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of a file's prompts kept out, by stable hash."""
    shards: Annotated[str | None, ExpandHome, MayChange()] = None
    """Folder or URL of shards that `scaledreamer make-shards` has made, instead of a corpus or a file."""
    use_embeddings: bool = True
    """Give the generator the text embeddings that shards carry, if there are any."""
    shard_size: Annotated[int | None, Field(ge=1)] = None
    """Make shards of so many prompts of the corpus or file, once, under cache; None keeps all in memory."""
    cache: Annotated[str, MayChange()] = "~/.cache/scaledreamer"
    """Folder for shards that are made here or copied from a URL."""
    cache_gib: Annotated[float, Field(gt=0)] = 100.0
    """Copies of shards used longest ago are removed beyond this size."""
    kinds: Annotated[list[str] | None, Field(min_length=1)] = None
    """Only these kinds of the tinyworld; one that stands there twice is drawn twice as often."""
    max_extras: Annotated[int, Field(ge=0, le=2)] = 2
    """Things said beyond kind and colour, in the tinyworld."""
    extras: ExtrasSettings = ExtrasSettings()
    """How often captions of the tinyworld mention what."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """Train on this many prompts (tinyworld: meanings) only."""

    @property
    def is_tinyworld(self) -> bool:
        """Whether the prompts have a ground truth."""
        return self.text is self.file is self.shards is None and self.name == "tinyworld"

    @model_validator(mode="after")
    def _one_source(self) -> PromptSettings:
        given = [name for name in ("text", "file", "shards") if getattr(self, name) is not None]
        given = ["name"] * (self.name != "tinyworld") + given
        if len(given) > 1:
            first, second = given[-2:]
            unset = f"prompts.{first}={'tinyworld' if first == 'name' else 'null'}"
            raise ValueError(
                f"prompts: {first} and {second} are both given; set {unset} or prompts.{second}=null."
            )
        if self.text is not None and self.shard_size is not None:
            raise ValueError(
                "prompts.shard_size: one prompt (prompts.text) needs no shards; set prompts.shard_size=null."
            )
        part = (self.kinds, self.max_extras, self.extras)
        if not self.is_tinyworld and part != (None, 2, ExtrasSettings()):
            raise ValueError(
                "prompts: kinds, max_extras and extras choose from the tinyworld; set prompts.kinds=null, "
                "prompts.max_extras=2 and prompts.extras={}, or train on the tinyworld."
            )
        count = self.extras.count[: self.max_extras + 1]
        if not sum(count) > 0:
            raise ValueError(
                f"prompts.extras.count: got {self.extras.count}, of which none up to prompts.max_extras="
                f"{self.max_extras} is above 0; raise one of them."
            )
        if self.file is None and self.holdout > 0:
            raise ValueError(
                "prompts.holdout: keeps out prompts of a file, and there is none; corpora of the package "
                "have held-out prompts of their own. Set prompts.holdout=0 or give prompts.file."
            )
        if self.file is None and self.section != "train":
            raise ValueError(
                "prompts.section: chooses a list of a JSON file, and there is none; set "
                "prompts.section=train or give prompts.file."
            )
        if self.shards is not None and (self.shard_size is not None or self.limit is not None):
            name = "shard_size" if self.shard_size is not None else "limit"
            raise ValueError(
                f"prompts.{name}: the shards are made already; set prompts.{name}=null, or make others with "
                "`scaledreamer make-shards`."
            )
        return self


class ConditionerSettings(Section):
    """The text encoder whose output the generator is given; it becomes part of the exported generator."""

    name: Literal["tinyworld", "clip"] = "tinyworld"
    """The shipped one, or any CLIP text encoder."""
    model: Model = None
    """Folder or hub id for clip, or a list of them; None is the shipped one."""
    revision: str | None = None
    """Branch, tag or commit of hub ids; None is the newest."""

    @property
    def models(self) -> list[str]:
        """`model` as a list; empty for the shipped one."""
        return [self.model] if isinstance(self.model, str) else list(self.model or [])
