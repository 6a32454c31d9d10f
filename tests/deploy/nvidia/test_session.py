"""A session's own logic, on a GPU of NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from deploy.engine_options import EngineOptions
from deploy.nvidia.device import process_memory
from deploy.nvidia.session import MOST_GRAPHS, DeviceMemory, PlanSession
from deploy.sessions import Running
from tests.deploy.nvidia.fakes import COLD_MS, PLAN, WIDTH, FakeDevice, FakeEngine, FakeRunner
from trueint8.errors import RunError


def batch(*axes: int, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {"x": draw.standard_normal((*axes, WIDTH)).astype(np.float32)}


def opened(
    device: FakeDevice, *, graph: bool = True, profiled: bool = False
) -> tuple[PlanSession, FakeRunner, FakeEngine]:
    runner = FakeRunner(device)
    running = Running(1, EngineOptions(cuda_graph=graph), profiled=profiled)
    session = PlanSession(runner, PLAN, "model.plan", running, device)
    assert runner.engine is not None
    return session, runner, runner.engine


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    """A device on which nothing must be left."""
    device = FakeDevice()
    yield device
    assert not device.held and not device.pinned and not device.open
    assert device.recording is None


@pytest.mark.parametrize("graph", [True, False])
def test_every_shape_gives_its_own_result(device: FakeDevice, graph: bool) -> None:
    session, runner, engine = opened(device, graph=graph)
    assert session.captures == graph
    with session:
        for round_ in range(3):
            for axes in ((1, 1), (2, 3), (4, 8), (2, 3), (3, 1), (1, 1)):
                feeds = batch(*axes, seed=round_)
                before = feeds["x"].copy()
                result = session.run(feeds)["y"]
                np.testing.assert_array_equal(result, 2 * before)
                np.testing.assert_array_equal(feeds["x"], before)
                assert result.dtype == np.float32
    assert ("launch" in device.log) == graph
    assert (engine.contexts > 1) == graph
    assert runner.closed == 1
    session.close()
    assert runner.closed == 1, "closing twice is no error"


def test_outputs_are_copies(device: FakeDevice) -> None:
    session, *_ = opened(device)
    with session:
        first = session.run(batch(2, 2))["y"]
        kept = first.copy()
        session.run(batch(2, 2, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_a_shape_is_captured_after_its_first_run_and_launched_from_then_on(
    device: FakeDevice,
) -> None:
    session, *_ = opened(device)
    with session:
        for _ in range(3):
            session.run(batch(2, 2))
        assert [e for e in device.log if e != "event"] == ["enqueue", "capture"] + ["launch"] * 2
        session.run(batch(1, 2))
        session.run(batch(2, 2))
        assert [e for e in device.log if e != "event"][4:] == ["enqueue", "capture", "launch"]


def test_memory_that_grows_takes_the_graphs_with_it(device: FakeDevice) -> None:
    """Their addresses are no more; a strict device would not launch them."""
    session, _, engine = opened(device)
    with session:
        session.run(batch(1, 1))
        session.run(batch(1, 1))
        session.run(batch(4, 8))
        session.run(batch(1, 1))
        assert [e for e in device.log if e != "event"] == [
            "enqueue", "capture", "launch", "enqueue", "capture", "enqueue", "capture",
        ]  # fmt: skip
        assert engine.contexts == 3
        before = device.allocations
        session.run(batch(4, 8))
        session.run(batch(2, 2))
        assert device.allocations == before, "smaller shapes use what is there"


def test_no_more_graphs_are_kept_than_said(device: FakeDevice) -> None:
    session, _, engine = opened(device)
    with session:
        session.run(batch(4, 8))
        shapes = [(b, t) for b in range(1, 5) for t in range(1, 8)]
        for axes in shapes:
            session.run(batch(*axes))
        assert len(device.open) == MOST_GRAPHS + 5, "a stream and four events"
        contexts = engine.contexts
        session.run(batch(*shapes[-1]))
        assert engine.contexts == contexts
        session.run(batch(*shapes[0]))
        assert engine.contexts == contexts + 1, "the oldest is gone"


def test_a_device_that_cannot_capture_runs_without() -> None:
    device = FakeDevice(captures=False)
    session, _, engine = opened(device)
    with session:
        for axes in ((2, 2), (1, 1), (2, 2)):
            session.run(batch(*axes))
    assert "capture" not in device.log and engine.contexts == 1


@pytest.mark.parametrize(
    ("axes", "shape"), [((5, 8), "5x8x4"), ((1, 9), "1x9x4"), ((0, 1), "0x1x4")]
)
def test_a_shape_outside_the_profile_is_named(
    device: FakeDevice, axes: tuple[int, ...], shape: str
) -> None:
    session, *_ = opened(device)
    with session:
        with pytest.raises(RunError) as caught:
            session.run(batch(*axes))
        assert caught.value.problem == (
            f"input 'x' has shape {shape}; the plan was built for 1x1x4 to 4x8x4"
        )
        assert "--max-shapes" in caught.value.fix
        assert not device.log, "nothing ran"
        session.run(batch(1, 1))


def test_a_dtype_is_checked(device: FakeDevice) -> None:
    session, *_ = opened(device)
    with session, pytest.raises(RunError, match="dtype float64, not float32"):
        session.run({"x": np.zeros((1, 1, WIDTH))})


def test_too_little_memory_says_how_much_is_needed_and_the_session_lives_on() -> None:
    device = FakeDevice(total=1200)
    session, *_ = opened(device)
    with session:
        session.run(batch(1, 1))
        with pytest.raises(RunError, match=r"out of GPU memory: 0\.0 MiB more are needed"):
            session.run(batch(4, 8))
        np.testing.assert_array_equal(session.run(batch(1, 1))["y"], 2 * batch(1, 1)["x"])
    assert not device.held


def test_an_enqueue_that_fails_for_lack_of_memory_says_so(device: FakeDevice) -> None:
    session, _, engine = opened(device)
    with session:
        engine.fails = "out of memory in allocator"
        with pytest.raises(RunError, match="out of GPU memory"):
            session.run(batch(1, 1))
        engine.fails = "illegal instruction"
        with pytest.raises(RunError, match="Fake failed:\n    illegal instruction"):
            session.run(batch(1, 1))


def test_a_plan_that_cannot_be_captured_is_told_of_the_flag(device: FakeDevice) -> None:
    session, _, engine = opened(device)
    real = device.begin_capture

    def begin(stream: int) -> None:
        real(stream)
        engine.fails = "operation not permitted when stream is capturing"

    device.begin_capture = begin  # type: ignore[method-assign]
    with session, pytest.raises(RunError) as caught:
        session.run(batch(1, 1))
    assert "in a CUDA graph:\n    operation not permitted" in caught.value.problem
    assert "--no-cuda-graph" in caught.value.fix


def test_a_plan_that_is_none(device: FakeDevice) -> None:
    runner = FakeRunner(device)
    with pytest.raises(RunError) as caught:
        PlanSession(runner, b"hello", "b/model.plan", Running(1), device)
    assert caught.value.problem == (
        "b/model.plan is no plan that Fake 1.2 can run on this GPU:\n    magic tag is wrong"
    )
    runner.refuses = "OutOfMemory while loading weights"
    with pytest.raises(RunError, match="out of GPU memory"):
        PlanSession(runner, PLAN, "b/model.plan", Running(1), device)


def test_kernel_times_are_per_run_and_profiling_captures_nothing(device: FakeDevice) -> None:
    session, *_ = opened(device, profiled=True)
    with session:
        with pytest.raises(RunError, match="nothing ran"):
            session.kernel_times()
        session.run(batch(2, 2))
        assert session.kernel_times()["double"] == COLD_MS * 1e6, "there is no other"
        for _ in range(4):
            session.run(batch(2, 2))
        assert session.kernel_times() == {"double": 500_000.0, "nothing": 0.0}
        assert "capture" not in device.log
    plain, *_ = opened(device)
    with plain:
        plain.run(batch(1, 1))
        with pytest.raises(RunError, match="profiled=True"):
            plain.kernel_times()


def test_time_and_memory_on_the_device_are_told(device: FakeDevice) -> None:
    session, *_ = opened(device)
    with session:
        assert session.device_memory() == DeviceMemory(None, 0, 0, process_memory())
        session.run(batch(4, 8))
        assert session.device_ns == 250_000
        assert session.copied_ns == 750_000, "one copy in, one copy out"
        assert session.device_memory() == DeviceMemory(
            None, 16 * 4 * 8 * 4, 2 * 4 * 8 * 4 * 4, process_memory()
        )


def test_two_sessions_share_a_device_and_no_memory(device: FakeDevice) -> None:
    first, *_ = opened(device)
    second, *_ = opened(device)
    with first, second:
        one, two = batch(2, 2), batch(2, 2, seed=5)
        for _ in range(2):
            np.testing.assert_array_equal(first.run(one)["y"], 2 * one["x"])
            np.testing.assert_array_equal(second.run(two)["y"], 2 * two["x"])
