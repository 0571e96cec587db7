"""Times of known cost are measured right, and asynchronous dispatch cannot fool them."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.measure import measure_peak, time_step, train_advance
from jaxcnn.measure.probes.timing import MAX_WINDOW, MIN_SAMPLES, Timing


class Machine:
    """A clock, and steps whose results are there only after a while: as JAX, and with times known exactly."""

    def __init__(self, seconds, dispatch=1e-4):
        self.now, self.ready, self.calls = 0.0, 0.0, 0
        self.seconds = seconds if callable(seconds) else lambda call: seconds
        self.dispatch = dispatch

    def clock(self):
        return self.now

    def step(self, *args):
        self.now += self.dispatch
        self.ready = max(self.ready, self.now) + self.seconds(self.calls)
        self.calls += 1
        return self.ready

    def block(self, outputs):
        self.now = max([self.now, *outputs])


def timed(machine, **options):
    return time_step(machine.step, clock=machine.clock, block=machine.block, **options)


@pytest.mark.parametrize("seconds", [3.0, 0.1, 2e-3, 2e-4])
def test_a_step_of_known_cost_is_measured_within_5_percent(seconds):
    timing = timed(Machine(seconds), steps=20)
    assert timing.median == pytest.approx(seconds, rel=0.05)
    assert timing.p95 == pytest.approx(seconds, rel=0.05)


def test_dispatch_alone_is_never_the_time():
    machine = Machine(seconds=0.5, dispatch=1e-3)
    machine.step()
    assert machine.now == pytest.approx(1e-3)  # what a clock around the call would say
    assert timed(machine).median >= 0.5


def test_waiting_for_the_last_of_independent_calls_would_not_be_enough():
    machine = Machine(seconds=0.0)
    # Every other call takes long, the last one of a window none: its result is there before the others'.
    costs = iter([0.02, 0.001] * 1000)
    machine.step = lambda: machine.now + next(costs)
    timing = time_step(machine.step, clock=machine.clock, block=machine.block, steps=4, warmup=2, min_window=0.002)
    assert timing.window == 2
    assert timing.median == pytest.approx(0.02 / 2)


def test_the_warm_up_is_not_counted():
    slow_at_first = Machine(lambda call: 60.0 if call == 0 else 0.1)
    assert timed(slow_at_first, warmup=2).p95 == pytest.approx(0.1, rel=0.05)


def test_short_steps_are_taken_together_and_long_ones_alone():
    assert timed(Machine(0.1), steps=20).window == 1
    short = timed(Machine(1e-3), steps=20)
    assert short.window == pytest.approx(0.05 / 1.1e-3, abs=1)
    assert len(short.samples) == MIN_SAMPLES
    assert timed(Machine(1e-9, dispatch=0.0), steps=1).window == MAX_WINDOW


def test_median_p95_and_spread_are_the_samples():
    timing = Timing((1.0, 2.0, 3.0, 4.0, 100.0))
    assert timing.median == 3.0
    assert timing.p95 == pytest.approx(np.percentile(timing.samples, 95))
    assert timing.spread == pytest.approx(2.0 / 3.0)


def test_a_state_is_handed_on_and_may_be_consumed():
    step = jax.jit(lambda state, batch: (state + batch, state.sum()), donate_argnums=0)
    seen = []

    def spy(args, output):
        seen.append(output[0])
        return train_advance(args, output)

    timing = time_step(step, jnp.zeros(4), jnp.ones(4), steps=6, min_window=1e-9, advance=spy)
    assert float(seen[-1][0]) == len(seen) == 2 + len(timing.samples) * timing.window


def test_a_sleep_on_the_host_is_measured_within_5_percent():
    took = []

    def step():
        started = time.perf_counter()
        time.sleep(0.1)
        took.append(time.perf_counter() - started)  # on a busy machine more than was asked for

    timing = time_step(step, steps=5, warmup=1)
    assert timing.median >= 0.1
    assert min(timing.samples) == pytest.approx(min(took[1:]), rel=0.05)


def test_a_real_product_takes_no_less_than_when_waited_for_by_hand():
    size = 512

    @jax.jit
    def product(x):
        return jax.lax.fori_loop(0, 8, lambda _, y: x @ y / size, x)

    x = jnp.ones((size, size))
    product(x).block_until_ready()
    by_hand, timings = [], []
    for _ in range(3):  # alternately: other work on the machine falls on both
        timings.append(time_step(product, x, steps=5, warmup=1))
        started = time.perf_counter()
        product(x).block_until_ready()
        by_hand.append(time.perf_counter() - started)
    measured, direct = min(min(t.samples) for t in timings), min(by_hand)
    assert 0.4 * direct < measured < 2.5 * direct


def test_the_peak_is_the_operations_of_a_product_by_its_time(monkeypatch):
    def at_one_teraflop(step, x, **options):
        return Timing((2 * len(x) ** 3 / 1e12,) * 3)

    monkeypatch.setattr("jaxcnn.measure.probes.peaks.time_step", at_one_teraflop)
    peak = measure_peak("float32", seconds=1e-3)
    assert (peak.flops, peak.source) == (pytest.approx(1e12), "measured")


def test_nothing_to_time_is_refused():
    for options in ({"steps": 0}, {"warmup": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            time_step(lambda: None, **options)
