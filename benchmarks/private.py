"""A manager of the benchmark's own: its models, its folders, nothing of the user's touched."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

from backends import launcher, state
from backends.client import ManagerClient

T = TypeVar("T")


@contextmanager
def private_manager(models: Mapping[str, Path]) -> Iterator[state.Endpoint]:
    """Yield the endpoint of a fresh manager that knows `models` (name → GGUF) and has the first.

    The environment points to it meanwhile, so that language servers started inside find it too.
    """
    with tempfile.TemporaryDirectory(prefix="midspan-bench-") as folder:
        names = ("RUNTIME", "STATE", "MODELS")
        for name in names:
            (Path(folder) / name.lower()).mkdir(mode=0o700)
        own = {f"MIDSPAN_{name}_DIR": str(Path(folder) / name.lower()) for name in names}
        own["MIDSPAN_CONFIG"] = str(Path(folder) / "config.toml")
        with patch.dict(os.environ, own):
            endpoint = asyncio.run(_start(models))
            try:
                yield endpoint
            finally:
                launcher.stop(endpoint)


async def _start(models: Mapping[str, Path]) -> state.Endpoint:
    client = ManagerClient(client_name="midspan-bench")
    try:
        for name, path in models.items():
            await client.post("/api/models/add", {"name": name, "path": str(path)})
        await client.post("/api/models/select", {"name": next(iter(models))})
        return await client.ensure()
    finally:
        await client.close()


def ask(call: Callable[[ManagerClient], Awaitable[T]]) -> T:
    """Run one call on a client of the manager that the environment points to."""

    async def run() -> T:
        client = ManagerClient(client_name="midspan-bench")
        try:
            return await call(client)
        finally:
            await client.close()

    return asyncio.run(run())
