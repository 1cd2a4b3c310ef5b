"""The starter model that comes with midspan, so that it completes something before any download.

Rule of this package: data only. How the model was made is in `training/`, what it can do in
`MODEL_CARD.md`.
"""

from __future__ import annotations

from pathlib import Path

FILE_NAME = "midspan-starter-q8_0.gguf"


def path() -> Path:
    """The GGUF file's place on disk."""
    return Path(__file__).with_name(FILE_NAME)
