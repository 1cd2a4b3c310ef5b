"""The settings that a model would run with on this machine, each with its reason.

Rule: asks the machine and the model's header; loads nothing. Must not know who wants to know.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from backends import auto_config, cache_spec, catalogue, engine_settings, hardware, memory
from backends import quantisation as weights
from backends.auto_config import Choice, Shape
from backends.cache_spec import ModelCacheSpec
from backends.catalogue import Header, Model
from backends.errors import MidspanError

logger = logging.getLogger(__name__)


def choices(model: Model, header: Header, spec: ModelCacheSpec) -> list[Choice]:
    """Return those that its engine has, cells in the type that it takes by itself.

    Raises MidspanError.
    """
    engine = catalogue.engine_for(model).name
    settings = model.settings
    shape = Shape(header.file_bytes, header.context_length, spec)
    known = engine_settings.SETTINGS.get(engine)
    kept = "" if settings.kv_type else memory.kept_type(header, settings, engine)
    return [
        replace(choice, value=kept, reason=f"the type that {engine} computes in")
        if choice.name == "kv_type" and kept
        else choice
        for choice in auto_config.configure(hardware.detect(), shape, settings)
        if known is None or choice.name in known
    ]


def log(model: Model) -> None:
    """Write to the log, at level debug, what is about to be loaded and how, and into what."""
    if model.is_remote or not logger.isEnabledFor(logging.DEBUG):
        return
    try:
        header = catalogue.read_header(model.path)
        engine = catalogue.engine_for(model).name
        stored = weights.of_header(header, model.path.name)
        expected = memory.expected(header, model.settings, engine)
        found = choices(model, header, cache_spec.from_header(header))
    except MidspanError as error:  # loading it says it to whoever asked
        logger.debug("model %s: %s", model.name, error)
        return
    warning = f" ({stored.warning})" if stored.warning else ""
    logger.debug("model %s: %s, weights in %s%s", model.name, engine, stored.name, warning)
    mib = memory.MIB
    free = memory.available() // mib
    logger.debug("model %s: %d MiB expected, %d MiB free", model.name, expected // mib, free)
    for choice in found:
        line = "model %s: %s = %s: %s"
        logger.debug(line, model.name, choice.name, choice.value, choice.reason)
