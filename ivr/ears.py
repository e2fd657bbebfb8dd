"""From settings to the recogniser; apart from ``ivr.parts``, because it begins to load before all else is imported."""

from __future__ import annotations

import asyncio

from ivr.asr import AsrOptions, AsrPool
from ivr.asr_queue import QueueOptions
from ivr.config import Config
from ivr.models import resolve_model


def asr_options(config: Config) -> AsrOptions:
    """How the model is run."""
    ears = config.ears
    queue = QueueOptions(batch=ears.batch)
    return AsrOptions(
        device=ears.device,
        compute_type=ears.compute_type,
        vocabulary=ears.vocabulary,
        second_opinion=ears.second_opinion,
        second_look=ears.second_look,
        initial_prompt=ears.initial_prompt or None,
        queue=queue,
    )


async def begin_ears(config: Config) -> AsrPool:
    """Find the model and have the decoding processes load it; what is submitted from now on waits for ``open``.

    Raises:
        ModelError: no speech model.
    """
    ears = config.ears
    model = await asyncio.to_thread(resolve_model, ears.model, offline=ears.offline)  # a hub may be asked: minutes
    pool = AsrPool(model, ears.workers, ears.threads, options=asr_options(config))
    try:
        await pool.begin()
    except BaseException:
        await pool.stop()
        raise
    return pool
