from __future__ import annotations

from typing import Any, cast

import pytest

from backends.downloads import tries
from backends.downloads.tries import Tries, limit, pause
from backends.downloads.web import Cancel, Cancelled, Web
from backends.errors import (
    Conflict,
    MidspanError,
    RemoteFailed,
    RemoteRateLimited,
    RemoteUnreachable,
    UnknownModel,
)

PLACES = cast(list[Web], ["hub", "first", "second"])


def asked(errors: list[MidspanError], retries: int, moved: bool = False) -> tuple[list[Any], Any]:
    made = Tries(PLACES, retries, Cancel(), lambda _: None)
    order: list[Any] = []
    for error in errors:
        order.append(made.place)
        try:
            made.failed(error, moved=moved)
        except MidspanError as exc:
            return order, exc
    return order, None


def test_tries_go_round_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    errors: list[MidspanError] = [RemoteFailed(str(n)) for n in range(20)]
    order, last = asked(errors, retries=1)
    assert order == ["hub", "first", "second"] * 2
    assert str(last) == "5"


def test_tries_of_what_is_nowhere_end_after_one_round() -> None:
    order, last = asked([UnknownModel(str(n)) for n in range(9)], retries=5)
    assert order == ["hub", "first", "second"]
    assert isinstance(last, UnknownModel)


def test_tries_end_at_once_for_what_is_not_the_places_fault() -> None:
    assert asked([Conflict("full")], retries=5)[0] == ["hub"]


def test_tries_that_moved_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    order, last = asked([RemoteFailed("x")] * 30, retries=1, moved=True)
    assert (len(order), last) == (30, None)


def test_limit_and_pause_by_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.5)
    failed, busy = RemoteFailed("x"), RemoteRateLimited("x", 7.0)
    assert limit(failed, 2, 3) == 8
    assert limit(UnknownModel("x"), 2, 3) == 2
    assert [pause(failed, n, 1, 0.5) for n in (1, 2, 3, 4)] == [0.5, 1, 2, 4]
    assert pause(failed, 30, 1, 0.5) == 30
    assert pause(failed, 1, 2, 0.5) == 0  # another place first
    assert pause(RemoteUnreachable("x"), 1, 1, 0.0) == 0.25
    assert pause(busy, 1, 1, 0.5) == 7
    assert pause(RemoteRateLimited("x", 9999.0), 1, 1, 0.5) == 300


def test_tries_stop_waiting_when_cancelled() -> None:
    cancel = Cancel()
    cancel.set()
    made = Tries(PLACES[:1], 5, cancel, lambda _: None)
    with pytest.raises(Cancelled):
        made.failed(RemoteFailed("x"))
