from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.downloads.progress import Meter, Row, State


def meter(total: int = 1000) -> Meter:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5
        return now

    return Meter(Row("m", State.DOWNLOADING, total_bytes=total), clock)


@given(st.lists(st.tuples(st.integers(0, 1200), st.booleans()), min_size=1))
def test_meter_never_goes_back_and_never_beyond_the_end(seen: list[tuple[int, bool]]) -> None:
    made, last, before = meter(), 0, 0
    for there, fresh in seen:
        row = made.count(there, last, fresh)
        last = there
        assert before <= row.received_bytes <= row.total_bytes
        assert row.rate >= 0
        before = row.received_bytes


def test_meter_tells_rate_and_time_of_what_comes_now() -> None:
    made, row = meter(10_000), Row("", State.WAITING)
    made.count(5_000, 0, False)  # from an earlier run: no rate
    assert made.row.rate == 0
    for there in range(5_100, 6_000, 100):
        row = made.count(there, there - 100, True)
    assert row.rate == 200  # 100 in half a second
    assert row.eta_s == (10_000 - 5_900) / 200


def test_meter_counts_files_before() -> None:
    made = meter(300)
    made.count(100, 0, True)
    made.file_done(100)
    assert made.count(50, 0, True).received_bytes == 150
    made.notes.append("It is odd.")
    done = made.enter(State.DONE, "It fits.")
    assert (done.received_bytes, done.reason, done.rate) == (300, "It is odd. It fits.", 0)
    assert done.is_final
