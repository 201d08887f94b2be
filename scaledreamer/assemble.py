"""Config -> Trainer: the parts of a run, each made by its own family from its own settings."""

from __future__ import annotations

import torch

from scaledreamer import generators, methods, priors, rendering
from scaledreamer.config import CameraSettings, Config, RendererSettings
from scaledreamer.contracts import Generator, PriorText
from scaledreamer.exported import start_from
from scaledreamer.generators.whitening import fit_whitening
from scaledreamer.launch.engine import Engine
from scaledreamer.launch.process import Process
from scaledreamer.methods.base import Timesteps
from scaledreamer.priors.conditioning import Texts
from scaledreamer.prompts.assembly import check_embeddings, make_source
from scaledreamer.prompts.conditioner import TextConditioner, make_conditioner
from scaledreamer.prompts.encodings import EncodingCache, join_conditions
from scaledreamer.prompts.source import PromptList, PromptSource
from scaledreamer.prompts.stream import PromptStream, rank_indices
from scaledreamer.prompts.view_words import VIEW_WORDS
from scaledreamer.training.batch import BatchSampler, CameraSampler
from scaledreamer.training.judge import Judge, PixelClip
from scaledreamer.training.optimizers import AveragedWeights, make_learning_rates, make_optimizer
from scaledreamer.training.regularizers import make_regularizers
from scaledreamer.training.rendered import RenderedGenerator
from scaledreamer.training.step import Trainer
from scaledreamer.weights.places import hub_access

NUM_WHITENED = 2048
"""Prompts of the corpus that a generator's text whitening is fitted to."""


def make_judges(
    config: Config,
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
    shared, last = config.distillation, config.training.max_steps
    timesteps = Timesteps(shared.t_min.over(last), shared.t_max.over(last))
    judges = []
    for number, settings in enumerate(config.priors):
        key = f"priors.{number}"
        try:
            prior = priors.make(settings, config.weights, device, key)
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
                methods.make(settings, timesteps),
                texts,
                weight=settings.weight,
                samples_latents=shared.sample_latents,
                clip=PixelClip(**shared.pixel_clip.model_dump()),
            )
        )
    return judges


def _encode_all(texts: Texts, source: PromptSource | None, text_cache: int, key: str) -> None:
    """Fills a prior's cache with all texts of a run, so that its text encoder can be freed."""
    if not isinstance(source, PromptList):
        raise ValueError(f"{key}: prompts in shards are not in memory at once; set {key}=false.")
    needed = texts.all_of(source.read(0, range(source.num_prompts)).prompts)
    if text_cache < len(needed):
        raise ValueError(
            f"{key}: {len(needed)} texts (each prompt with each view word, and the empty or negative one) do "
            f"not fit into training.text_cache; raise it to {len(needed)}, or set {key}=false."
        )
    texts.encode(needed)


def make_camera_sampler(cameras: CameraSettings, renderer: RendererSettings, max_steps: int) -> CameraSampler:
    """Which cameras look at a scene, and how many pixels they see."""
    pairs = cameras.model_dump(exclude={"num_views", "elevation_on_sphere"})
    return CameraSampler(
        **{name: (low, high) for name, (low, high) in pairs.items()},
        elevation_on_sphere=cameras.elevation_on_sphere,
        num_views=cameras.num_views,
        image_size=renderer.image_size.over(max_steps),
    )


def make_generator(
    config: Config, conditioner: TextConditioner, source: PromptSource, device: torch.device
) -> Generator:
    """A generator as a training begins with it: fresh weights of the run's seed, fitted to its corpus, or
    another run's weights.

    Raises: ValueError for settings that it does not take, or weights that do not fit.
    """
    torch.manual_seed(config.seed)  # of the initial weights; training never draws from the global generator
    name, start = config.generator.name, config.generator.start
    settings = generators.constructor_settings(
        config.generator, condition_dim=conditioner.condition_dim, token_dim=conditioner.token_dim
    )
    generator = generators.make(name, settings).to(device)
    fit_whitening(generator, conditioner, source.examples(NUM_WHITENED))
    if start is not None:
        start_from(generator, config.generator, start, hub_access(config.weights))
    return generator


def make_trainer(config: Config, process: Process) -> Trainer:
    """Everything that training steps need, with freshly initialized weights.

    Raises: ValueError for settings that do not go together, or models that cannot be loaded.
    """
    training, device = config.training, process.device
    conditioner = make_conditioner(config.conditioner, config.weights, device)
    source = make_source(config.prompts)
    generators.check_num_prompts(config.generator, source.num_distinct)
    if training.deterministic:
        generators.check_repeats(config.generator, device)
    stream = PromptStream(
        source,
        seed=config.seed,
        batch_size=training.batch_size,
        use_embeddings=config.prompts.use_embeddings and check_embeddings(source, conditioner),
    )
    # A prior's texts are the prompts with each view word, and the empty one.
    num_texts = source.num_distinct * len(VIEW_WORDS) + 1
    text_cache = training.text_cache if num_texts <= training.text_cache else 0
    regularizers = make_regularizers(config.regularizers, training.max_steps)
    cameras = make_camera_sampler(config.cameras, config.renderer, training.max_steps)
    line = generators.backend_line(config.generator, device)
    if line is not None and process.is_main:
        print(line, flush=True)
    generator = make_generator(config, conditioner, source, device)
    renderer = rendering.configured(config.renderer)
    averaged = AveragedWeights(generator, training.ema_decay)
    parts = {"world_size": process.world_size, "accumulation_steps": training.accumulation_steps}
    engine = Engine(
        RenderedGenerator(generator, renderer, regularizers, config.renderer.random_background),
        generator,
        make_optimizer(generator, config.optimizer),
        process,
        micro_batch_size=len(rank_indices(training.batch_size, rank=process.rank, micro_step=0, **parts)),
        accumulation_steps=training.accumulation_steps,
        zero_stage=training.zero_stage,
        max_norm=config.optimizer.max_gradient_norm,
    )
    judges = make_judges(config, device, text_cache, source)
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
    rates = make_learning_rates(config.optimizer, training.max_steps)
    return Trainer(engine, averaged, batches, judges, regularizers, rates)
