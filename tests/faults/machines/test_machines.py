"""Machines that are shared and poor: the run ends at the same bits, or in one line."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import killing
import pytest
from storage import disks

ROOT = Path(__file__).parents[3]
ONCE = Path(__file__).with_name("once.py")
FREE = {"JAXCNN_KERNELS": "auto"}
"""Lets a process choose its kernels, which then may be others than those of the undisturbed run."""


@pytest.fixture(scope="module")
def place():
    """A folder that every user may write to. It is not in /tmp, which some of the tests hide."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def environment(place, **more):
    shared = {"JAX_COMPILATION_CACHE_DIR": str(place / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAXCNN_KERNELS": "xla", "MPLCONFIGDIR": str(place / "mpl")}
    # XLA's oneDNN would be other kernels, whose programs the cache cannot hold.
    return {**os.environ, **shared, **own, "JAXCNN_XLA_OPTIONS": "0", **more}


def command(run):
    return [sys.executable, str(ONCE), *killing.ARGS, "--workdir", str(run)]


def train(place, run, prefix=(), without=(), **more):
    env = {name: value for name, value in environment(place, **more).items() if name not in without}
    return subprocess.run([*prefix, *command(run)], env=env, cwd="/", capture_output=True, text=True, timeout=300)


def said(ended):
    """Return what a run has written to standard error, except for what Matplotlib says about its own cache."""
    lines = ended.stderr.splitlines(keepends=True)
    return "".join(line for line in lines if "atplotlib" not in line and "mkdir -p" not in line)


@pytest.fixture(scope="module")
def straight(place):
    """What the run leaves on a machine that lacks nothing."""
    ended = train(place, place / "straight")
    assert (ended.returncode, said(ended)) == (0, "")
    for path in place.rglob("*"):
        path.chmod(0o777)
    return killing.outcome(place / "straight")


def shell(text):
    """Start a command by a shell that prepares its machine."""
    return ["bash", "-c", f'{text}; exec "$@"', "bash"]


def as_nobody():
    """Become a user without rights, a name and a home, who may read Python wherever it is installed."""
    user = ["--reuid", "12345", "--regid", "12345", "--clear-groups"]
    none_but = "-all,+dac_read_search"
    caps = [f"--bounding-set={none_but}", f"--inh-caps={none_but}", "--ambient-caps=+dac_read_search"]
    return ["setpriv", *user, *caps]


def mounted(text):
    return ["unshare", "--mount", "--propagation", "private", *shell(text)]


MACHINES = {
    "64 open files": shell("ulimit -n 64"),
    "a user without a name": as_nobody(),
    "no /dev/shm": mounted("mount -t tmpfs -o ro tmpfs /dev/shm"),
    "64 MB of /dev/shm": mounted("mount -t tmpfs -o size=64m tmpfs /dev/shm"),
    "no /tmp": mounted("mount -t tmpfs -o ro tmpfs /tmp"),
    "a quarter of a core": shell("true"),  # its group is set below
}


def is_allowed(prefix):
    if os.geteuid() or any(shutil.which(name) is None for name in ("bash", "setpriv", "unshare")):
        return False
    return subprocess.run([*prefix, "true"], capture_output=True).returncode == 0


QUICK = "a user without a name"


@pytest.mark.parametrize("machine", [QUICK, *(pytest.param(x, marks=pytest.mark.slow) for x in MACHINES if x != QUICK)])
def test_a_run_on_a_poor_machine_ends_at_the_same_bits(place, straight, machine):
    prefix, run = MACHINES[machine], place / machine.replace(" ", "-").replace("/", "-")
    if not is_allowed(prefix):
        pytest.skip("this machine does not allow it")
    with contextlib.ExitStack() as held:
        if machine == "a quarter of a core":
            group = held.enter_context(control_group("cpu", {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": 25_000}))
            prefix = shell(f"echo $$ > {group}/cgroup.procs")
        ended = train(place, run, prefix)
    assert (ended.returncode, said(ended)) == (0, "")
    assert killing.outcome(run) == straight


@contextlib.contextmanager
def control_group(controller, limits):
    """A new control group (version 1) below that of this process."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line.split(":")[2] for line in lines if controller in line.split(":")[1].split(",")), None)
    group = Path(f"/sys/fs/cgroup/{controller}{own}/jaxcnn-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("control groups cannot be made here")
    try:
        for name, value in limits.items():
            (group / name).write_text(str(value))
        yield group
    finally:
        while (group / "cgroup.procs").read_text().split():  # what was killed ends a moment later
            time.sleep(0.05)
        group.rmdir()


HOMES = {
    "none": {"without": ("HOME",)},
    "read-only": {"HOME": "/proc", "XDG_CACHE_HOME": "/proc/cache", "MPLCONFIGDIR": "/proc/mpl"},
    "missing": {"HOME": "/nowhere/at/all", "MPLCONFIGDIR": "/nowhere/else"},
}


@pytest.mark.slow
@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("kernels", ["auto", "xla"])
def test_a_home_that_cannot_be_used_costs_caches_and_no_more(place, straight, home, kernels):
    if not is_allowed(as_nobody()):
        pytest.skip("this machine does not allow it")
    run = place / f"home-{home}-{kernels}"
    # Without the cache of compiled programs that the tests name, the console script looks for its own.
    options = HOMES[home]
    without = (*options.get("without", ()), "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")
    without = tuple(name for name in without if name not in options)
    more = {name: value for name, value in options.items() if name != "without"}
    ended = train(place, run, as_nobody(), without=without, **more, JAXCNN_KERNELS=kernels)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "jaxcnn: " not in ended.stderr
    if kernels == "xla":
        assert killing.outcome(run) == straight
        assert said(ended) == ""


@pytest.mark.slow
def test_a_cache_that_runs_no_programs_is_one_warning(place, tmp_path):
    if not has_native_kernels():
        pytest.skip("oneDNN is not installed")
    with disks.small_disk(tmp_path / "cache", "size=40m,noexec") as is_mounted:
        if not is_mounted:
            pytest.skip("mounting a disk is not allowed here")
        ended = train(place, place / "noexec", XDG_CACHE_HOME=str(tmp_path / "cache"), **FREE)
    assert ended.returncode == 0, ended.stderr
    warnings = [line for line in ended.stderr.splitlines() if "native kernels cannot be used" in line]
    assert len(warnings) == 1
    assert "XDG_CACHE_HOME" in warnings[0]


def has_native_kernels():
    from importlib import metadata

    with contextlib.suppress(metadata.PackageNotFoundError):
        return bool(metadata.version("onednn-cpu-gomp"))
    return False


@pytest.mark.slow
def test_a_locale_of_c_changes_nothing(place, straight):
    run = place / "café"
    ended = train(place, run, LC_ALL="C")
    assert (ended.returncode, said(ended)) == (0, "")
    assert killing.outcome(run) == straight


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "café"])
def test_a_python_without_utf8_needs_a_run_directory_of_ascii(place, straight, name):
    run = place / f"ascii-{name}"
    ended = train(place, run, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    if name == "plain":
        assert (ended.returncode, said(ended)) == (0, "")
        assert killing.outcome(run) == straight
    else:
        assert ended.returncode == 2
        (line,) = said(ended).splitlines()
        assert line.endswith("is not UTF-8, which checkpoints need. Set PYTHONUTF8=1, or choose another --workdir.")


@pytest.mark.slow
def test_a_run_that_is_killed_for_its_memory_goes_on_with_more(place, straight):
    run = place / "oom"
    with control_group("memory", {"memory.limit_in_bytes": 2**34}) as group:
        process = subprocess.Popen(
            [*shell(f"echo $$ > {group}/cgroup.procs"), *command(run)],
            env=environment(place),
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None and len(killing.complete_checkpoints(run)) < 2:
            time.sleep(0.005)
        # The smallest limit that the kernel accepts: the next page that the process takes is too much.
        limit = int((group / "memory.usage_in_bytes").read_text())
        for part in range(20):
            with contextlib.suppress(OSError):
                (group / "memory.limit_in_bytes").write_text(str(limit - limit // 20 * (19 - part)))
                break
        status = process.wait(120)
        errors = process.communicate()[1]
    assert status in (-signal.SIGKILL, 0)
    assert errors == ""
    ended = train(place, run)
    assert (ended.returncode, said(ended)) == (0, "")
    assert killing.outcome(run) == straight
