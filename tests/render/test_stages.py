"""Time by stage."""

from __future__ import annotations

import time

from render.stages import Stages, surplus_of_first


def test_the_first_render_s_surplus_is_synchronisation() -> None:
    assert surplus_of_first([5.0, 1.0, 2.0, 3.0]) == 3.0
    assert surplus_of_first([1.0, 2.0]) == 0.0 and surplus_of_first([1.0]) == 0.0


def test_stages_add_up_to_the_time_spent() -> None:
    stages, started = Stages(), time.perf_counter()
    with stages.stage("load"):
        time.sleep(0.02)
    for pause in (0.03, 0.01, 0.01):
        with stages.render("colour"):
            time.sleep(pause)
        with stages.stage("encode"):
            time.sleep(0.01)
    whole, record = time.perf_counter() - started, stages.record()
    assert list(record) == ["load", "sync", "render", "encode"]
    # Sleeping may take longer than asked for, but nothing is counted twice or left out: a millisecond of bookkeeping.
    assert abs(sum(record.values()) - whole) < 1e-3
    assert record["sync"] > 0.01 and record["load"] >= 0.02 and record["encode"] >= 0.03
