"""The user's steering vectors: a folder with one file for each, by its name.

Rule: names pass one validator before they become paths; a file is replaced in one step or not at
all. Standard library and msgspec only. Must not know engines.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from backends import paths
from backends.errors import BadRequest, Conflict, ModelFileError, Unsupported
from backends.steering import vector_file
from backends.steering.vector_file import ModelIdentity, Vector

SUFFIX: Final = ".safetensors"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Row:
    """A vector in the folder; `problem` instead where its file can't be used."""

    name: str
    vector: Vector | None
    problem: str = ""


class Library:
    """The vectors in one folder, which need not exist. By default: the user's."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or paths.vectors_dir()

    def path(self, name: str) -> Path:
        """Return where the vector called `name` is or would be. Raises BadRequest."""
        return self._folder / f"{check_name(name)}{SUFFIX}"

    def rows(self) -> Iterator[Row]:
        """Yield all vectors, by name."""
        names = sorted(path.stem for path in self._folder.glob(f"*{SUFFIX}"))
        for name in filter(_NAME.fullmatch, names):
            try:
                yield Row(name, self.load(name)[0])
            except (ModelFileError, BadRequest) as exc:
                yield Row(name, None, str(exc))

    def load(self, name: str) -> tuple[Vector, str]:
        """Return a vector and the digest of its file. Raises BadRequest, ModelFileError."""
        path = self.path(name)
        try:
            data = _read(path)
        except FileNotFoundError:
            raise BadRequest(f"There is no steering vector {name!r}{self._others()}.") from None
        except OSError as exc:
            raise ModelFileError(f"{path} cannot be read: {exc.strerror}.") from exc
        try:
            vector = vector_file.parse(data)
        except ModelFileError as exc:
            raise ModelFileError(f"{path}: {exc}") from None
        # Whoever renames a file renames the vector.
        return replace(vector, name=name), digest(data)

    def save(self, vector: Vector, *, overwrite: bool = False) -> Path:
        """Write a vector. Raises BadRequest, Conflict where there is one, OSError."""
        path = self.path(vector.name)
        if path.exists() and not overwrite:
            raise Conflict(
                f"There is a steering vector {vector.name!r} already. Give another --name, or "
                "--overwrite to replace it."
            )
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        paths.write_private(path, vector_file.encode(vector))
        return path

    def remove(self, name: str) -> None:
        """Remove a vector's file. Raises BadRequest where there is none."""
        try:
            self.path(name).unlink()
        except FileNotFoundError:
            raise BadRequest(f"There is no steering vector {name!r}{self._others()}.") from None

    def _others(self) -> str:
        names = ", ".join(row.name for row in self.rows() if row.vector)
        return f". There are: {names}" if names else "; `midspan steer train` makes one"


def check_name(name: str) -> str:
    """Return `name` if it can name a vector. Raises BadRequest."""
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"{name!r} cannot name a steering vector: letters, digits, _ and - are allowed, "
            "64 at most."
        )
    return name


def check_model(vector: Vector, model: ModelIdentity) -> None:
    """Raise Unsupported, naming both models, where `vector` was made for another one."""
    if replace(vector.model, name=model.name) != model:
        raise Unsupported(
            f"The steering vector {vector.name!r} was made for {_called(vector.model)}, and this "
            f"is {_called(model)}. Train one for this model: midspan steer train."
        )


def digest(data: bytes) -> str:
    """Return what tells two files of the same name apart."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _called(model: ModelIdentity) -> str:
    return (
        f"{model.name} ({model.architecture}, {model.layers} layers of {model.hidden_size}, "
        f"weights {model.fingerprint[:8]})"
    )


def _read(path: Path) -> bytes:
    """Return a plain file's bytes, if it is no larger than vectors are."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode) or info.st_size > vector_file.MAX_FILE:
            raise ModelFileError(f"{path} is no steering vector.")
        return file.read(vector_file.MAX_FILE)
