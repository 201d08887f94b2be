"""The only place where a name becomes an object: plain match, each import only where its name is chosen.

Functions with a `config` section read `scaledreamer.config`; the two without also serve exported generators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from scaledreamer import config as cfg
from scaledreamer.home import expand_home

if TYPE_CHECKING:
    import torch
    from torch import nn

    from scaledreamer.contracts import Generator, Renderer
    from scaledreamer.evaluation.validation import ValidationScore
    from scaledreamer.launch.process import Process
    from scaledreamer.priors.conditioning import Texts
    from scaledreamer.priors.latent_diffusion import LatentDiffusionPrior
    from scaledreamer.prompts.conditioner import TextConditioner
    from scaledreamer.prompts.source import PromptSource
    from scaledreamer.training.batch import CameraSampler
    from scaledreamer.training.judge import Judge
    from scaledreamer.training.regularizers import Regularizers
    from scaledreamer.training.step import Trainer
    from scaledreamer.weights.find import Availability
    from scaledreamer.weights.hub_lookup import Access, Found

ASSETS = Path(__file__).parent / "assets"
TINY_PRIOR = ASSETS / "tiny_prior"
SHIPPED_PLACES = {"models": [str(TINY_PRIOR)], "variant": "auto"}
"""Of the shipped prior and text encoder: `weights.variant` chooses among files of other models."""
NUM_WHITENED = 2048
"""Prompts of the corpus that a generator's text whitening is fitted to."""


def make_generator(name: str, settings: Mapping[str, Any]) -> Generator:
    """A generator from its name and constructor settings, as `model_index.json` holds them.

    Raises: ValueError for an unknown name, or settings that the generator does not take or there is no memory
        for; RuntimeError if allocating its weights fails.
    """
    match name:
        case "hyper_ingp":
            from scaledreamer.generators.hyper_ingp import HyperINGP as Made
        case "conv3d_net":
            from scaledreamer.generators.conv3d_net import Conv3DNet as Made
        case "triplane_transformer":
            from scaledreamer.generators.triplane_transformer import TriplaneTransformer as Made
        case "field":
            from scaledreamer.generators.field import Field as Made
        case _:
            accepted = ", ".join(map(repr, get_args(cfg.GeneratorSettings.model_fields["name"].annotation)))
            raise ValueError(f"generator.name: got {name!r}; accepted are {accepted}.")
    try:
        missing = _missing_memory(Made, settings)
        if missing is None:
            return Made(**settings)
    except (TypeError, ValueError, RuntimeError) as error:
        if "allocate memory" in str(error):  # these settings are good, on a larger machine
            raise
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"generator {name}: does not take these settings ({reason}).") from None
    sizes = ", ".join(
        key for key, value in settings.items() if type(value) is int and not key.endswith("_dim")
    )
    raise ValueError(
        f"generator {name}: {missing}: lower its sizes ({sizes}). Training takes about five times that."
    )


def _missing_memory(make: Callable[..., nn.Module], settings: Mapping[str, Any]) -> str | None:
    """What a generator's weights take, if that is more than is free; None if there is room.

    Asked before they are allocated: a system that promises more than it has would kill the process.
    """
    import torch

    from scaledreamer.memory import memory_bytes

    if torch.get_default_device().type != "cpu":
        return None
    with torch.device("meta"):
        sketch = make(**settings)
    num_bytes = sum(value.numel() * value.element_size() for value in sketch.state_dict().values())
    free = memory_bytes()[0]
    if num_bytes <= free:
        return None
    taken, left = f"{num_bytes / 2**30:.1f}", f"{free / 2**30:.1f}"
    return f"its weights take {taken} GiB, and {left} GiB of memory are free"


def generator_settings(config: cfg.GeneratorSettings) -> dict[str, Any]:
    """Constructor settings of the chosen architecture, without what the conditioner decides."""
    return config.chosen.model_dump()


def conditioned_settings(
    config: cfg.GeneratorSettings, *, condition_dim: int, token_dim: int | None = None
) -> dict[str, Any]:
    """All constructor settings of the chosen architecture.

    Args:
        condition_dim: length of the conditioner's pooled vector.
        token_dim: of its token vectors; None is the same.
    """
    match config.name:
        case "triplane_transformer":
            text = {"token_dim": condition_dim if token_dim is None else token_dim}
        case "field":
            text = {}
        case _:
            text = {"condition_dim": condition_dim}
    return generator_settings(config) | text


def grid_line(config: cfg.GeneratorSettings, device: torch.device) -> str | None:
    """One line on what computes the generator's hash grid on a device; None for generators without one.

    Raises: ValueError if the setting's choice does not work there, with how to get it.
    """
    from scaledreamer.fields.hash_grid_backend import choose_backend

    backend = generator_settings(config).get("grid_backend")
    try:
        return None if backend is None else choose_backend(backend, device).line
    except ValueError as error:
        raise ValueError(f"generator.{config.name}.grid_{error}") from None


def renderer_section(config: cfg.RendererSettings) -> dict[str, Any]:
    """Name and settings of the renderer, as `model_index.json` holds them."""
    return {"name": config.name} | config.chosen.model_dump()


def make_renderer(config: cfg.RendererSettings) -> Renderer:
    """The renderer of a configuration."""
    from scaledreamer import rendering

    return rendering.make(config.name, config.chosen.model_dump())


def hub_access(weights: cfg.WeightSettings, unreachable: dict[str, str] | None = None) -> Access:
    """How hubs are asked, as configured; those in `unreachable` are not asked again."""
    from scaledreamer.weights.hub_lookup import Access

    known = {} if unreachable is None else unreachable
    return Access(mirrors=weights.mirrors, offline=weights.offline, unreachable=known)


def start_from(
    generator: nn.Module, name: str, settings: Mapping[str, Any], place: str, access: Access | None = None
) -> None:
    """Gives a new generator the weights of a run or of an exported generator (a warm restart: no optimizer).

    Args:
        place, access: as of `find_generator`.

    Raises: ValueError if there is none, or one of other settings.
    """
    from scaledreamer.exported import check_files, find_generator, load_weights, read_index

    try:
        found = find_generator(place, access)
        index = read_index(found)
        check_files(found, index)
        theirs = {"name": index["generator"]["name"]} | index["generator"]["settings"]
        ours = {"name": name} | dict(settings)
        free = cfg.free_settings(type(cfg.GeneratorSettings.model_validate({"name": name}).chosen))
        wrong = [key for key in ours if key not in free and ours[key] != theirs.get(key)]
        if wrong:
            raise ValueError(
                f"{found} has {wrong[0]} {theirs.get(wrong[0])!r}, this configuration {ours[wrong[0]]!r}; "
                "set the same, or generator.start=null"
            )
        load_weights(generator, found)
    except ValueError as error:
        raise ValueError(f"generator.start: {error}") from None


def fit_whitening(generator: nn.Module, conditioner: TextConditioner, prompts: Sequence[str]) -> None:
    """Fits a generator's text whitening, if it has one, to prompts of its corpus; the same on every rank."""
    import torch

    from scaledreamer.generators.whitening import TextWhitening

    chunks = [list(prompts[first : first + 256]) for first in range(0, len(prompts), 256)]
    for module in generator.modules():
        if isinstance(module, TextWhitening):
            module.fit(torch.cat([conditioner(chunk).pooled for chunk in chunks]))


def build_prompts(config: cfg.PromptSettings) -> list[str]:
    """Training prompts of a corpus or file, in memory."""
    from scaledreamer.prompts.corpus import corpus_file, read_prompts, split_prompts, tinyworld_prompts
    from scaledreamer.prompts.shard_writer import shuffled

    if config.text is not None:
        return [config.text]
    if config.is_tinyworld:
        part = config.model_dump(include={"kinds", "max_extras", "extras", "limit"})
        return tinyworld_prompts(**part)
    if config.file is None:
        return shuffled(read_prompts(corpus_file(config.name)))[: config.limit]  # stored sorted
    prompts = read_prompts(config.file, config.section)
    kept, _ = split_prompts(prompts, config.holdout)
    if not kept:
        raise ValueError(
            f"prompts.holdout: got {config.holdout}, which keeps out all {len(prompts)} prompts of "
            f"{config.file}; lower it."
        )
    return kept[: config.limit]


def build_prompt_source(config: cfg.PromptSettings) -> PromptSource:
    """Where the stream reads from: memory, or shards, which are made or copied here if need be."""
    from scaledreamer.prompts.remote import shard_files
    from scaledreamer.prompts.shard_writer import build_once, shuffled
    from scaledreamer.prompts.shards import LocalFiles, ShardedPrompts
    from scaledreamer.prompts.source import PromptList

    if config.shards is not None:
        return ShardedPrompts(shard_files(config.shards, cache=config.cache, cache_gib=config.cache_gib))
    prompts = build_prompts(config)
    if config.shard_size is None:
        return PromptList(prompts)
    corpus = config.file or config.name
    digest = PromptList(prompts).fingerprint[:12]
    name = f"{Path(corpus).name.split('.')[0]}-{digest}-{config.shard_size}"
    folder = Path(expand_home(config.cache, "prompts.cache")) / "shards" / name
    build_once(
        lambda: shuffled(prompts),
        folder,
        num_prompts=len(prompts),
        shard_size=config.shard_size,
        corpus=corpus,
        say=lambda text: print(text, flush=True),
    )
    return ShardedPrompts(LocalFiles(folder))


def check_num_prompts(config: cfg.Config, num_distinct: int) -> None:
    """Raises ValueError for more than one prompt if the generator is a plain field, which holds one scene."""
    if config.generator.name == "field" and num_distinct > 1:
        raise ValueError(
            f"generator.name: 'field' is one scene, whatever the prompt says, and there are "
            f'{num_distinct} prompts; give one (prompts.text="a red-eyed tree frog"), or take another '
            "generator."
        )


def check_deterministic(config: cfg.Config, device: torch.device) -> None:
    """Raises ValueError for generators whose gradients torch cannot repeat on a GPU, if they are to be.

    Those of `grid_sample` and of trilinear interpolation, see `torch.use_deterministic_algorithms`.
    """
    name = config.generator.name
    if (
        config.training.deterministic
        and device.type == "cuda"
        and name in ("conv3d_net", "triplane_transformer")
    ):
        raise ValueError(
            f"training.deterministic: got true, and gradients of generator.name={name} do not repeat on a "
            "GPU; set it to false, or training.device to cpu, or take 'hyper_ingp' or 'field'."
        )


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


def check_models(config: cfg.Config) -> list[str]:
    """A line for each model that is to be downloaded before the training; nothing is downloaded yet.

    Needs no torch.

    Raises: ValueError, in less than 10 seconds, with the key of a model that cannot be had.
    """
    from scaledreamer.exported import check_generator
    from scaledreamer.weights.find import WeightsError, check_weights

    unreachable: dict[str, str] = {}
    keys = [("conditioner", conditioner_places(config.conditioner, config.weights))]
    keys += [(f"priors.{i}", prior_places(prior, config.weights)) for i, prior in enumerate(config.priors)]
    lines = []
    for key, places in keys:
        try:
            found = check_weights(**places, unreachable=unreachable)
        except WeightsError as error:
            tiny = "`train.py --config configs/tiny.yaml` needs no weights"
            raise ValueError(f"{key}.model: {str(error).removesuffix('.')}; {tiny}.") from None
        if found.num_bytes:
            lines.append(f"{key}.model: {found.name}: {_download_size(found)} are to be downloaded")
    if config.generator.start is not None:
        try:
            start = check_generator(config.generator.start, hub_access(config.weights, unreachable))
        except ValueError as error:
            raise ValueError(f"generator.start: {error}") from None
        if start is not None and start.num_bytes:
            size = _download_size(start)
            lines.append(f"generator.start: {config.generator.start}: {size} are to be downloaded")
    return lines


def _download_size(found: Availability | Found) -> str:
    return f"{len(found.missing_files)} files, {found.num_bytes / 2**30:.2f} GiB"


def conditioner_places(config: cfg.ConditionerSettings, weights: cfg.WeightSettings) -> dict[str, Any]:
    """Arguments of `check_weights` and `find_weights`."""
    from scaledreamer.weights.layout import TEXT_ENCODER

    if config.name == "clip" and not config.models:
        raise ValueError("conditioner.model: missing; clip needs a folder or a hub id.")
    places = {"parts": TEXT_ENCODER, "revision": config.revision} | weights.model_dump()
    return places | ({"models": config.models} if config.models else SHIPPED_PLACES)


def prior_places(config: cfg.PriorSettings, weights: cfg.WeightSettings) -> dict[str, Any]:
    """Arguments of `check_weights` and `find_weights`."""
    from scaledreamer.weights.layout import SDXL, STABLE_DIFFUSION

    places = {
        "parts": SDXL if config.name == "sdxl" else STABLE_DIFFUSION,
        "revision": config.revision,
        "is_half": config.networks.dtype != "float32",
    } | weights.model_dump()
    return places | ({"models": config.models} if config.models else SHIPPED_PLACES)


def build_conditioner(
    config: cfg.ConditionerSettings, weights: cfg.WeightSettings, device: torch.device | str
) -> TextConditioner:
    """The generator's text encoder, frozen, on a device; downloaded if need be."""
    from scaledreamer.prompts.conditioner import TextConditioner
    from scaledreamer.weights.find import WeightsError, find_weights

    try:
        found = find_weights(**conditioner_places(config, weights))
    except WeightsError as error:
        raise ValueError(f"conditioner {error}") from None
    assert found.folder is not None
    return TextConditioner.from_pretrained(found.folder, variant=found.variant).to(device)


def build_prior(
    config: cfg.PriorSettings, weights: cfg.WeightSettings, device: torch.device | str, key: str = "priors.N"
) -> LatentDiffusionPrior:
    """A frozen prior on a device, downloaded if need be, run as its settings say.

    Args:
        key: its place in the configuration, for messages.

    Raises: ValueError if it cannot be loaded, or not be run that way; the latter begins with the setting's
        key.
    """
    import torch

    from scaledreamer.priors.latent_diffusion import check_dtype
    from scaledreamer.weights.find import WeightsError, find_weights

    settings = config.networks.model_dump(exclude={"dtype", "drop_text_encoder"})
    key, dtype = f"{key}.{config.name}", getattr(torch, config.networks.dtype)
    check_dtype(config.name, dtype, device, key)
    match config.name:
        case "tinyworld" | "stable_diffusion":
            from scaledreamer.priors.stable_diffusion import StableDiffusionPrior as Prior
        case "sdxl":
            from scaledreamer.priors.sdxl import SDXLPrior as Prior
    try:
        found = find_weights(**prior_places(config, weights))
    except WeightsError as error:
        raise ValueError(f"prior {error}") from None
    assert found.folder is not None
    prior = Prior.from_pretrained(
        found.folder,
        device=device,
        dtype=dtype,
        variant=found.variant,
        single_file=found.single_file,
    )
    prior.run_as(**settings, key=key)
    return prior


def build_judges(
    config: cfg.Config,
    device: torch.device,
    text_cache: int,
    source: PromptSource | None = None,
) -> list[Judge]:
    """All priors of a run with their methods, texts and weights.

    Args:
        text_cache: as in `EncodingCache`.
        source: the prompts, for priors that encode all texts before training.

    Raises: ValueError with the key of a prior that cannot be loaded, or cannot judge what the cameras see.
    """
    from scaledreamer.contracts import PriorText
    from scaledreamer.methods import make as make_method
    from scaledreamer.methods.base import Timesteps
    from scaledreamer.priors.conditioning import Texts
    from scaledreamer.prompts.encodings import EncodingCache
    from scaledreamer.training.judge import Judge, PixelClip

    shared, last = config.distillation, config.training.max_steps
    timesteps = Timesteps(shared.t_min.over(last), shared.t_max.over(last))
    judges = []
    for number, settings in enumerate(config.priors):
        key = f"priors.{number}"
        try:
            prior = build_prior(settings, config.weights, device, key)
        except ValueError as error:
            text = str(error)
            raise ValueError(text if text.startswith(f"{key}.") else f"{key}: {text}") from None
        if config.cameras.num_views % prior.num_views:
            raise ValueError(
                f"cameras.num_views: got {config.cameras.num_views}, and {key} judges {prior.num_views} "
                f"views together; give a multiple of {prior.num_views}."
            )
        encode = EncodingCache(prior.encode_text, PriorText.cat, capacity=text_cache)
        texts = Texts(encode, settings.negative_prompt, settings.perp_neg)
        if settings.networks.drop_text_encoder:
            dropped = f"{key}.{settings.name}.drop_text_encoder"
            _encode_all(texts, source, text_cache, dropped)
            prior.drop_text_encoder()
        judges.append(
            Judge(
                prior,
                make_method(shared.method, timesteps, settings, shared.shift_steps),
                texts,
                weight=settings.weight,
                samples_latents=shared.sample_latents,
                clip=PixelClip(**shared.pixel_clip.model_dump()),
            )
        )
    return judges


def _encode_all(texts: Texts, source: PromptSource | None, text_cache: int, key: str) -> None:
    """Fills a prior's cache with all texts of a run, so that its text encoder can be freed."""
    from scaledreamer.prompts.source import PromptList

    if not isinstance(source, PromptList):
        raise ValueError(f"{key}: prompts in shards are not in memory at once; set {key}=false.")
    needed = texts.all_of(source.read(0, range(source.num_prompts)).prompts)
    if text_cache < len(needed):
        raise ValueError(
            f"{key}: {len(needed)} texts (each prompt with each view word, and the empty or negative one) do "
            f"not fit into training.text_cache; raise it to {len(needed)}, or set {key}=false."
        )
    texts.encode(needed)


def build_regularizers(config: cfg.RegularizerSettings, max_steps: int) -> Regularizers:
    """All regularizers with their schedules."""
    from scaledreamer.training.regularizers import Regularizers

    weights = {
        "eikonal": config.eikonal.weight.over(max_steps),
        "sparsity": config.sparsity.weight.over(max_steps),
        "opaque": config.opaque.weight.over(max_steps),
        "orientation": config.orientation.weight.over(max_steps),
    }
    return Regularizers(**weights, num_points=config.eikonal.num_points, epsilon=config.eikonal.epsilon)


def build_cameras(
    cameras: cfg.CameraSettings, renderer: cfg.RendererSettings, max_steps: int
) -> CameraSampler:
    """Which cameras look at a scene, and how many pixels they see."""
    from scaledreamer.training.batch import CameraSampler

    pairs = cameras.model_dump(exclude={"num_views", "elevation_on_sphere"})
    return CameraSampler(
        **{name: (low, high) for name, (low, high) in pairs.items()},
        elevation_on_sphere=cameras.elevation_on_sphere,
        num_views=cameras.num_views,
        image_size=renderer.image_size.over(max_steps),
    )


def build_validation(config: cfg.Config, device: torch.device) -> ValidationScore:
    """The scores by which a run chooses its best generator, on the part of the tinyworld that is trained.

    Raises: ValueError for prompts of a file, whose meaning nobody knows, or if the evaluator is missing.
    """
    if not config.prompts.is_tinyworld:
        raise ValueError(
            "evaluation.every: only prompts of the tinyworld have a ground truth to validate by; set "
            "evaluation.every=null."
        )
    from scaledreamer.evaluation.validation import SCORES, ValidationScore

    if config.evaluation.metric not in SCORES:
        accepted = ", ".join(map(repr, SCORES))
        raise ValueError(f"evaluation.metric: got {config.evaluation.metric!r}; accepted are {accepted}.")

    return ValidationScore(
        num_prompts=config.evaluation.num_prompts,
        kinds=config.prompts.kinds,
        max_extras=config.prompts.max_extras,
        renderer=make_renderer(config.renderer).for_scores(),
        device=device,
    )


def build_generator(
    config: cfg.Config, conditioner: TextConditioner, source: PromptSource, device: torch.device
) -> Generator:
    """A generator as a training begins with it: fresh weights of the run's seed, fitted to its corpus, or
    another run's weights.

    Raises: ValueError for settings that it does not take, or weights that do not fit.
    """
    import torch

    torch.manual_seed(config.seed)  # of the initial weights; training never draws from the global generator
    settings = conditioned_settings(
        config.generator, condition_dim=conditioner.condition_dim, token_dim=conditioner.token_dim
    )
    generator = make_generator(config.generator.name, settings).to(device)
    fit_whitening(generator, conditioner, source.examples(NUM_WHITENED))
    if config.generator.start is not None:
        access = hub_access(config.weights)
        start_from(generator, config.generator.name, settings, config.generator.start, access)
    return generator


def build_trainer(config: cfg.Config, process: Process) -> Trainer:
    """Everything that training steps need, with freshly initialized weights.

    Raises: ValueError for settings that do not go together, or models that cannot be loaded.
    """
    from scaledreamer.launch.engine import Engine
    from scaledreamer.prompts.encodings import EncodingCache, join_conditions
    from scaledreamer.prompts.stream import PromptStream, rank_indices
    from scaledreamer.prompts.view_words import VIEW_WORDS
    from scaledreamer.training.batch import BatchSampler
    from scaledreamer.training.optimizers import AveragedWeights, LearningRates, make_optimizer
    from scaledreamer.training.rendered import RenderedGenerator
    from scaledreamer.training.step import Trainer

    training, optimizer, device = config.training, config.optimizer, process.device
    parts = {"world_size": process.world_size, "accumulation_steps": training.accumulation_steps}
    indices = rank_indices(training.batch_size, rank=process.rank, micro_step=0, **parts)
    conditioner = build_conditioner(config.conditioner, config.weights, device)
    source = build_prompt_source(config.prompts)
    check_num_prompts(config, source.num_distinct)
    check_deterministic(config, device)
    stream = PromptStream(
        source,
        seed=config.seed,
        batch_size=training.batch_size,
        use_embeddings=config.prompts.use_embeddings and check_embeddings(source, conditioner),
    )
    # A prior's texts are the prompts with each view word, and the empty one.
    num_texts = source.num_distinct * len(VIEW_WORDS) + 1
    text_cache = training.text_cache if num_texts <= training.text_cache else 0
    regularizers = build_regularizers(config.regularizers, training.max_steps)
    cameras = build_cameras(config.cameras, config.renderer, training.max_steps)
    line = grid_line(config.generator, device)
    if line is not None and process.is_main:
        print(line, flush=True)
    generator = build_generator(config, conditioner, source, device)
    renderer = make_renderer(config.renderer)
    averaged = AveragedWeights(generator, training.ema_decay)
    engine = Engine(
        RenderedGenerator(generator, renderer, regularizers, config.renderer.random_background),
        generator,
        make_optimizer(
            generator,
            name=optimizer.name,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            momentum=optimizer.momentum,
            adan_betas=optimizer.adan.betas,
            background_betas=optimizer.background_betas,
        ),
        process,
        micro_batch_size=len(indices),
        accumulation_steps=training.accumulation_steps,
        zero_stage=training.zero_stage,
        max_norm=optimizer.max_gradient_norm,
    )
    rates = {
        "generator": optimizer.lr.over(training.max_steps),
        "background": optimizer.background_lr.over(training.max_steps),
    }
    judges = build_judges(config, device, text_cache, source)
    batches = BatchSampler(
        stream,
        EncodingCache(conditioner, join_conditions, capacity=text_cache),
        cameras,
        judges,
        accumulation_steps=training.accumulation_steps,
        rank=process.rank,
        world_size=process.world_size,
        device=device,
    )
    rates = LearningRates(**rates, warmup_steps=optimizer.warmup_steps)
    return Trainer(engine, averaged, batches, judges, regularizers, rates)
