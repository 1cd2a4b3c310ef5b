"""Reading the fields of a JSON object: typed, clamped, and refused by name.

Rule: pure. Null is the same as absent, as in every API that is served here; a wrong type is a
BadRequest that names the field. Must not know any endpoint.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from backends.errors import BadRequest

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Number:
    """A numeric field: its type and the limits it is clamped to."""

    kind: type[int] | type[float]
    least: float
    most: float


def number(body: Body, name: str, spec: Number) -> float | None:
    """Return the number `name`, clamped. Raises BadRequest."""
    value = body.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{name!r} must be a number.")
    if spec.kind is int and not whole:
        raise BadRequest(f"{name!r} must be a whole number.")
    return spec.kind(max(spec.least, min(spec.most, value)))


def typed(body: Body, name: str, kind: type, called: str) -> Any:
    """Return the field `name`, of type `kind`, which is `called` so. Raises BadRequest."""
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise BadRequest(f"{name!r} must be {called}.")
    return value


def text(body: Body, name: str) -> str:
    """Return the string `name`, empty where it is absent. Raises BadRequest."""
    return typed(body, name, str, "a string") or ""


def flag(body: Body, name: str, default: bool = False) -> bool:
    """Return the truth value `name`. Raises BadRequest."""
    value = typed(body, name, bool, "true or false")
    return default if value is None else bool(value)


def table(body: Body, name: str) -> dict[str, Any]:
    """Return the object `name`, empty where it is absent. Raises BadRequest."""
    return typed(body, name, dict, "an object") or {}


def strings(body: Body, name: str) -> tuple[str, ...]:
    """Return the list of strings `name`, empty where it is absent. Raises BadRequest."""
    value = body.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadRequest(f"{name!r} must be a list of strings.")
    return tuple(value)


def objects(body: Body, name: str, most: int) -> list[dict[str, Any]]:
    """Return the list of at most `most` objects `name`, empty where absent. Raises BadRequest."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRequest(f"{name!r} must be a list of objects.")
    if len(value) > most:
        raise BadRequest(f"{name!r} may hold {most} objects.")
    return value


def only(body: Body, known: Container[str], where: str = "") -> None:
    """Refuse what is not `known`: it could change the meaning. Raises BadRequest."""
    inside = f" in {where!r}" if where else ""
    for name, value in body.items():
        if name not in known and value is not None:
            raise BadRequest(f"The field {name!r}{inside} is not supported; leave it out.")


def neutral(body: Body, allowed: Mapping[str, tuple[object, ...]]) -> None:
    """Refuse each field of `allowed` whose value is none of those it may have."""
    for name, values in allowed.items():
        value = body.get(name)
        if value is not None and value not in values:
            hint = "leave it out" if not values else f"only {json.dumps(values[0])} can be given"
            raise BadRequest(f"The field {name!r} is not supported; {hint}.")
