"""The field `steering` of every API that generates: which vectors act, and how much.

Rule: pure. Which vectors there are is the engine's to say. Must not know any endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.api.fields import Body, Number, number, objects, only, text
from backends.backend import Capabilities, SteeringUse
from backends.errors import BadRequest, Unsupported

MAX_VECTORS = 16
COEFFICIENT = Number(float, -1000, 1000)


def uses(body: Body) -> tuple[SteeringUse, ...]:
    """Return the field `steering`: [{name, coefficient}]. Raises BadRequest."""
    found = []
    for item in objects(body, "steering", MAX_VECTORS):
        only(item, ("name", "coefficient"), "steering")
        coefficient = number(item, "coefficient", COEFFICIENT)
        if not text(item, "name") or coefficient is None:
            raise BadRequest("'steering' must hold objects with a 'name' and a 'coefficient'.")
        found.append(SteeringUse(text(item, "name"), coefficient))
    return tuple(found)


def check(wanted: Sequence[SteeringUse], can: Capabilities) -> None:
    """Raise Unsupported where a model cannot do what a request asks for."""
    if wanted and not can.steering:
        raise Unsupported("The engine of this model cannot steer what it writes.")
