from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from backends import lifecycle
from backends.lifecycle import (
    Died,
    Effect,
    Event,
    Loaded,
    Models,
    ModelState,
    Refused,
    Selected,
    Start,
    Stopped,
    Unload,
    Unloaded,
    Wanted,
)


def run(*events: Event, models: Models | None = None) -> tuple[Models, list[Effect]]:
    models, effects = models or Models(), []
    for event in events:
        models, more = lifecycle.step(models, event)
        effects += more
    return models, effects


def died(name: str, run: int, at: float, by_signal: bool = True) -> Died:
    return Died(name, run, "killed", by_signal, at)


A_READY = (Wanted("a", False, 0), Loaded("a", 1, 1))


def test_wanted_starts_and_becomes_current() -> None:
    models, effects = run(*A_READY)
    assert effects == [Start("a", 1, False)]
    assert (models.current, models.target) == ("a", None)
    assert models.slot("a").state is ModelState.READY


def test_wanted_twice_starts_once() -> None:
    _, effects = run(Wanted("a", False, 0), Wanted("a", False, 0.1))
    assert effects == [Start("a", 1, False)]


def test_selected_keeps_the_old_until_the_new_is_ready() -> None:
    models, effects = run(*A_READY, Selected("b", False, 2))
    assert models.serving == "a"
    assert effects[-1] == Start("b", 1, False)
    models, effects = run(Loaded("b", 1, 3), models=models)
    assert models.serving == "b"
    # Both fit, so the old one stays: going back must cost nothing.
    assert effects == []
    assert models.slot("a").state is ModelState.READY
    assert models.standby == ["a"]


def test_selected_on_standby_serves_at_once_and_stops_nothing() -> None:
    models, _ = run(*A_READY, Selected("b", False, 2), Loaded("b", 1, 3))
    models, effects = run(Selected("a", False, 4), models=models)
    assert (models.serving, models.target, models.standby, effects) == ("a", None, ["b"], [])
    models, effects = run(Selected("c", False, 5), Selected("b", False, 6), models=models)
    assert models.serving == "b"
    assert effects == [Start("c", 1, False), Unload("c", 1)]  # c had not been loaded yet


def in_room(kept: int, most: int, *names: str, size: int = 4) -> Models:
    """Models loaded one after the other, each of `size` bytes; the last one serves."""
    models = Models(room=lifecycle.Room(kept, most))
    for at, name in enumerate(names):
        models, _ = run(
            Selected(name, False, at, size), Loaded(name, 1, at + 0.5, size), models=models
        )
    return models


def test_two_that_do_not_both_stay_load_the_new_then_unload_the_old() -> None:
    models, effects = run(Selected("b", False, 2, 4), models=in_room(7, 8, "a"))
    assert (models.serving, effects) == ("a", [Start("b", 1, False)])
    models, effects = run(Loaded("b", 1, 3, 4), models=models)
    assert models.serving == "b"
    assert effects == [Unload("a", 1)]
    assert models.slot("a").state is ModelState.STOPPING
    models, _ = run(Unloaded("a", 1, 4), models=models)
    assert models.slot("a").state is ModelState.STOPPED


def test_two_that_cannot_both_be_loaded_unload_the_old_first() -> None:
    models, effects = run(Selected("b", False, 2, 4), models=in_room(7, 7, "a"))
    assert effects == [Unload("a", 1), Start("b", 1, False, after=(("a", 1),))]
    assert models.serving == "b"  # requests wait for it
    models, effects = run(Unloaded("a", 1, 3), Loaded("b", 1, 4, 4), models=models)
    assert (models.serving, models.standby, effects) == ("b", [], [])


def test_old_that_had_to_leave_comes_back_when_the_new_fails() -> None:
    models, _ = run(
        Selected("b", False, 2, 4),
        Unloaded("a", 1, 3),
        Refused("b", 1, "corrupt", "model_file", 4),
        models=in_room(7, 7, "a"),
    )
    assert models.serving == "a"
    _, effects = run(Wanted("a", False, 5, 4), models=models)
    assert effects == [Start("a", 2, False)]


def test_least_recently_used_on_standby_makes_room() -> None:
    models = in_room(12, 16, "a", "b", "c")
    models, _ = run(Selected("a", False, 10), Selected("c", False, 11), models=models)
    assert models.standby == ["b", "a"]
    models, effects = run(Selected("d", False, 12, 4), models=models)
    assert effects == [Unload("b", 1), Start("d", 1, False)]
    assert models.standby == ["a"]


def test_model_larger_than_all_room_is_loaded_alone() -> None:
    _, effects = run(Selected("big", False, 9, 100), models=in_room(12, 16, "a", "b"))
    assert effects == [
        Unload("a", 1),
        Unload("b", 1),
        Start("big", 1, False, after=(("a", 1), ("b", 1))),
    ]


def test_crash_of_the_serving_model_during_a_swap_restarts_it_where_both_fit() -> None:
    models, _ = run(Selected("b", False, 2, 4), died("a", 1, 3), models=in_room(8, 8, "a"))
    assert models.serving == "a"
    models, _ = run(Selected("b", False, 2, 4), died("a", 1, 3), models=in_room(7, 7, "a"))
    assert models.serving == "b"


def test_selected_that_fails_leaves_the_old_serving() -> None:
    models, effects = run(
        *A_READY, Selected("b", False, 2), Refused("b", 1, "corrupt", "model_file", 3)
    )
    assert (models.serving, models.target) == ("a", None)
    assert models.slot("a").state is ModelState.READY
    assert (models.slot("b").state, models.slot("b").reason) == (ModelState.FAILED, "corrupt")
    assert not any(isinstance(effect, Unload) for effect in effects)


def test_selected_anew_gives_up_the_pending_one() -> None:
    models, effects = run(*A_READY, Selected("b", False, 2), Selected("c", False, 3))
    assert effects[-2:] == [Unload("b", 1), Start("c", 1, False)]
    assert models.target == "c"
    models, effects = run(Loaded("b", 1, 4), models=models)  # it was ready just then
    assert (models.current, effects) == ("a", [])


def test_selected_current_again_cancels_the_pending_one() -> None:
    models, effects = run(*A_READY, Selected("b", False, 2), Selected("a", False, 3))
    assert effects[-1] == Unload("b", 1)
    assert (models.current, models.target) == ("a", None)


def test_selected_forgives_failures() -> None:
    models, effects = run(
        Wanted("a", False, 0), Refused("a", 1, "broken", "load_failed", 1), Wanted("a", False, 2)
    )
    assert effects == [Start("a", 1, False)]  # wanting is not enough
    models, effects = run(Selected("a", False, 3), models=models)
    assert effects == [Start("a", 2, False)]
    assert models.slot("a").reason == ""


def test_crash_in_warm_up_starts_once_in_safe_mode() -> None:
    models, effects = run(Wanted("a", False, 0), died("a", 1, 1))
    assert effects[-1] == Start("a", 2, True)
    assert models.slot("a").state is ModelState.STARTING
    models, effects = run(died("a", 2, 2), models=models)
    assert models.slot("a").state is ModelState.FAILED
    assert "Safe mode did not help" in models.slot("a").reason
    assert effects == []


def test_exit_in_warm_up_fails_without_another_try() -> None:
    models, effects = run(Wanted("a", False, 0), died("a", 1, 1, by_signal=False))
    assert models.slot("a").state is ModelState.FAILED
    assert effects == [Start("a", 1, False)]


def test_crash_while_ready_restarts_on_demand_with_back_off() -> None:
    models, _ = run(*A_READY, died("a", 1, 10))
    assert models.slot("a").state is ModelState.STOPPED
    models, effects = run(Wanted("a", False, 10), Loaded("a", 2, 11), models=models)
    assert effects == [Start("a", 2, False, delay=0.0)]
    _, effects = run(died("a", 2, 12), Wanted("a", False, 12.25), models=models)
    assert effects == [Start("a", 3, False, delay=0.75)]


def test_three_crashes_in_a_minute_fail() -> None:
    events: list[Event] = [*A_READY]
    for number, at in enumerate((10, 20, 30), 1):
        events += [
            died("a", number, at),
            Wanted("a", False, at + 2),
            Loaded("a", number + 1, at + 3),
        ]
    models, _ = run(*events)
    assert models.slot("a").state is ModelState.FAILED
    assert "crashed 3 times in 60 s" in models.slot("a").reason


def test_three_crashes_in_two_minutes_do_not_fail() -> None:
    events: list[Event] = [*A_READY]
    for number, at in enumerate((10, 75, 140), 1):
        events += [
            died("a", number, at),
            Wanted("a", False, at + 2),
            Loaded("a", number + 1, at + 3),
        ]
    models, _ = run(*events)
    assert models.slot("a").state is ModelState.READY
    assert models.slot("a").restarts == 3


def test_news_of_an_earlier_run_changes_nothing() -> None:
    models, _ = run(*A_READY, died("a", 1, 2), Wanted("a", False, 3))
    again, effects = run(Loaded("a", 1, 4), died("a", 1, 4), Unloaded("a", 1, 4), models=models)
    assert (again, effects) == (models, [])


def test_failed_current_gives_way_to_a_pending_selection() -> None:
    models, _ = run(
        Wanted("a", False, 0), Loaded("a", 1, 1), Stopped("a", 2), Unloaded("a", 1, 3),
        Wanted("a", False, 4), Refused("a", 2, "gone", "model_file", 5), Selected("b", False, 6),
    )  # fmt: skip
    assert models.serving == "b"


NAMES = st.sampled_from("abc")
SIZES = st.integers(0, 6)
RUNS = st.integers(1, 4)
TIMES = st.floats(0, 200)
EVENTS = st.one_of(
    st.builds(Wanted, NAMES, st.booleans(), TIMES, SIZES),
    st.builds(Selected, NAMES, st.booleans(), TIMES, SIZES),
    st.builds(Loaded, NAMES, RUNS, TIMES, SIZES),
    st.builds(Refused, NAMES, RUNS, st.just("r"), st.just("load_failed"), TIMES),
    st.builds(Died, NAMES, RUNS, st.just("d"), st.booleans(), TIMES),
    st.builds(Unloaded, NAMES, RUNS, TIMES),
    st.builds(Stopped, NAMES, TIMES),
)


@given(st.lists(EVENTS, max_size=40), SIZES, SIZES)
def test_step_keeps_its_invariants_over_any_events(events: list[Any], kept: int, more: int) -> None:
    models = Models(room=lifecycle.Room(kept, kept + more))
    for event in events:
        before = models
        models, effects = lifecycle.step(models, event)
        for effect in effects:
            slot = models.slot(effect.name)
            assert effect.run == slot.run
            wanted = ModelState.STARTING if isinstance(effect, Start) else ModelState.STOPPING
            assert slot.state is wanted
        for name, slot in models.slots.items():
            if slot.state is ModelState.FAILED:
                assert slot.reason
            # Nothing starts or stops without an effect that does it.
            changed = slot.run != before.slot(name).run
            assert changed == any(isinstance(e, Start) and e.name == name for e in effects)
        if any(isinstance(effect, Start) for effect in effects) or isinstance(event, Loaded):
            # What could go has gone before anything is too much.
            assert models.taken <= kept or not models.standby
        if models.current != before.current:
            assert models.slot(models.current or "").state is ModelState.READY
