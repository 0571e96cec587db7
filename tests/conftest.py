"""Settings and fixtures of all tests: eight CPU devices, a shared compilation cache, and one trained network."""

import fcntl
import importlib.util
import os
import zlib
from pathlib import Path

# Set these before JAX initializes its backends. Tests run on the CPU even where there is an accelerator.
os.environ["JAX_PLATFORMS"] = "cpu"
# The workers, the processes that tests start, and the next run reuse each other's compiled programs. Small programs
# are stored too: eager operations compile hundreds of them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import pytest

collect_ignore = ["support"]  # modules that tests import, without tests of their own

# tests/test_array_types.py fails without them.
if all(map(importlib.util.find_spec, ("jaxtyping", "beartype"))):
    import shape_checks

    shape_checks.install()

# Parallel code is tested as such on any machine.
jax.config.update("jax_num_cpu_devices", 8)


def pytest_addoption(parser):
    group = parser.getgroup("jaxcnn")
    group.addoption(
        "--one-in", type=int, default=1, metavar="N", help="run one in N of the tests, drawn by their names"
    )
    group.addoption("--draw", type=int, default=0, metavar="D", help="which of the N draws of --one-in (default: 0)")


def pytest_collection_modifyitems(config, items):
    """Leave out the tests that `--one-in` does not draw. The draws 0 to N-1 together run each test once."""
    one_in, draw = config.getoption("--one-in"), config.getoption("--draw")
    if one_in < 1:
        raise pytest.UsageError(f"--one-in must be 1 or more, and it is {one_in}")
    drawn = [zlib.crc32(item.nodeid.encode()) % one_in == draw % one_in for item in items]
    config.hook.pytest_deselected(items=[item for item, kept in zip(items, drawn, strict=True) if not kept])
    items[:] = [item for item, kept in zip(items, drawn, strict=True) if kept]


@pytest.fixture
def compile_quickly():
    """Turn most of XLA's optimizations off.

    For tests of many programs that each run once on small arrays: compiling them takes longer than running them.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def lenet_run(tmp_path_factory, worker_id):
    """Return the result of a short run of LeNet-5. Tests must leave its directory as it was."""
    from jaxcnn.train import Config, fit

    folder = tmp_path_factory.getbasetemp()
    folder = folder if worker_id == "master" else folder.parent  # which all workers share
    config = Config(steps=60, batch_size=64, ema_decay=0.9, progress=False, workdir=str(folder / "lenet_run"))
    with (folder / "lenet_run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return fit(config)  # the first worker trains; the others load the finished run
