"""What `settle` sets before JAX starts, what it leaves to the user, and what it says."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxcnn import startup
from jaxcnn.startup import Settings, options_work

HAS_GLIBC = platform.libc_ver()[0] == "glibc"
needs_glibc = pytest.mark.skipif(not HAS_GLIBC, reason="elsewhere memory is left to the system")


def run(program, cache, *args, **more):
    """What a fresh process prints, with nothing set by the user but `more`."""
    unset = ("JAX_COMPILATION_CACHE_DIR", "JAX_PLATFORMS", "XLA_FLAGS", "JAXCNN_XLA_OPTIONS", "JAXCNN_KERNELS")
    environment = {
        name: value for name, value in os.environ.items() if name not in unset and not name.startswith("MALLOC_")
    }
    environment |= {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}
    done = subprocess.run([sys.executable, "-c", program, *args], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# The compilation cache


@pytest.fixture
def fresh(monkeypatch):
    """JAX as it is before it starts, without a compilation cache."""
    folder = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(startup, "_jax_has_started", lambda: False)
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", folder)


def test_compilations_are_kept_in_a_folder_of_the_user(tmp_path, fresh):
    assert startup._why_not_compilation_cache({"XDG_CACHE_HOME": str(tmp_path)}) is None
    assert (tmp_path / "jaxcnn" / "compiled").is_dir()


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"JAX_COMPILATION_CACHE_DIR": "/elsewhere"}, "JAX_COMPILATION_CACHE_DIR is set"),
        ({"JAX_COMPILATION_CACHE_DIR": ""}, "JAX_COMPILATION_CACHE_DIR is set"),
        ({"JAX_ENABLE_COMPILATION_CACHE": "false"}, "JAX_ENABLE_COMPILATION_CACHE disables it"),
    ],
)
def test_a_cache_that_the_user_configures_stays(tmp_path, environment, says):
    assert startup._why_not_compilation_cache({"XDG_CACHE_HOME": str(tmp_path), **environment}) == says
    assert not list(tmp_path.iterdir())


def test_programs_that_cannot_be_stored_are_not(tmp_path, fresh):
    environment = {"XDG_CACHE_HOME": str(tmp_path), "XLA_FLAGS": " ".join(startup.XLA_OPTIONS)}
    assert startup._why_not_compilation_cache(environment) == "programs that call XLA's oneDNN cannot be stored"


def test_without_a_folder_that_can_be_written_nothing_is_cached(tmp_path, fresh):
    (tmp_path / "file").touch()
    reason = startup._why_not_compilation_cache({"XDG_CACHE_HOME": str(tmp_path / "file")})
    assert reason.startswith("its folder cannot be created: ")


# XLA's options


@pytest.fixture
def tries(monkeypatch):
    """The calls of the trial, which answers True."""
    calls = []

    def answer(options, environment):
        calls.append(options)
        return True

    monkeypatch.setattr(startup, "_try_options", answer)
    monkeypatch.setattr(startup, "_jax_has_started", lambda: False)
    monkeypatch.setattr(startup, "_has_onednn", lambda: False)
    return calls


def test_options_that_the_user_has_set_stay_the_users(tries, tmp_path):
    first, second = startup.XLA_OPTIONS
    environment = {"XDG_CACHE_HOME": str(tmp_path), "XLA_FLAGS": f"--xla_dump_to=/tmp/x {first.split('=')[0]}=mine"}
    assert startup._why_not_xla_options(environment, None) is None
    assert startup._missing_options(environment["XLA_FLAGS"]) == (second,)
    both = {**environment, "XLA_FLAGS": " ".join(startup.XLA_OPTIONS)}
    assert startup._why_not_xla_options(both, None) == "XLA_FLAGS sets them already"


def test_options_can_be_disabled_and_are_not_for_small_batches_or_beside_onednn(tries, tmp_path, monkeypatch):
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    assert startup._why_not_xla_options({**environment, "JAXCNN_XLA_OPTIONS": "0"}, None) == (
        "JAXCNN_XLA_OPTIONS disables them"
    )
    assert startup._why_not_xla_options(environment, batch_values=784) == "the batch is small"
    monkeypatch.setattr(startup, "_has_onednn", lambda: True)
    assert startup._why_not_xla_options(environment, None) == "jaxcnn's own oneDNN computes convolutions"
    assert tries == []


def test_options_that_jaxlib_does_not_use_are_not_set(tries, tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "_try_options", lambda options, environment: False)
    reason = startup._why_not_xla_options({"XDG_CACHE_HOME": str(tmp_path)}, None)
    assert reason.endswith("does not use them")


def test_options_are_tried_once(tries, tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    assert options_work(("--a",), environment)
    assert options_work(("--a",), environment)
    assert tries == [("--a",)]
    options_work(("--b",), environment)
    assert tries == [("--a",), ("--b",)]


@pytest.mark.parametrize("damage", ["", "{", "1", '"True"', "\xff"])
def test_a_damaged_answer_is_made_again(tries, tmp_path, damage):
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    options_work(("--a",), environment)
    (path,) = (tmp_path / "jaxcnn").iterdir()
    path.write_bytes(damage.encode("latin-1"))
    assert options_work(("--a",), environment) is True
    assert len(tries) == 2
    assert json.loads(path.read_text()) is True


def test_without_a_cache_options_are_tried_each_time(tries, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for environment in ({"XDG_CACHE_HOME": str(tmp_path / "file")}, {}):
        monkeypatch.setattr(startup.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
        assert options_work(("--a",), environment)
        assert options_work(("--a",), environment)
    assert len(tries) == 4


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("print(True)", True),
        ("print(False)", False),
        ("raise SystemExit(1)", False),
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", False),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", None),
        ("import time; time.sleep(60)", None),
    ],
)
def test_what_a_child_process_says_is_an_answer_and_what_ended_it_is_not(monkeypatch, code, answer):
    monkeypatch.setattr(startup, "_TRIAL", code)
    monkeypatch.setattr(startup, "TRIAL_SECONDS", 2.0)
    assert startup._try_options(startup.XLA_OPTIONS, os.environ) is answer


def test_no_answer_is_not_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "_try_options", lambda options, environment: None)
    assert options_work(("--a",), {"XDG_CACHE_HOME": str(tmp_path)}) is False
    assert not list(tmp_path.rglob("*.json"))


def test_an_option_that_jaxlib_does_not_know_ends_only_the_child(tmp_path, capfd):
    assert not options_work(("--xla_no_such_option=1",), {**os.environ, "XDG_CACHE_HOME": str(tmp_path)})
    assert capfd.readouterr() == ("", "")


# Memory

FAULTS = """
import resource, jax
from jaxcnn import startup

startup.settle()
step = jax.jit(lambda x: jax.lax.sort(jax.numpy.sin(x) + 1).sum())
x, faults = jax.numpy.ones((4, 4_000_000)), []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(startup.keeps_freed_memory(), min(faults[1:]))
"""


@needs_glibc
@pytest.mark.parametrize("kept", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_steps_memory_is_kept_for_the_next_one_unless_that_is_disabled(tmp_path, kept):
    said, new_pages = run(FAULTS, tmp_path, JAX_PLATFORMS="cpu", JAXCNN_KEEP_MEMORY="01"[kept]).split()
    assert said == str(kept)
    # Sorting a sine takes 64 MB several times, 16,000 pages each, which the system provides anew or not.
    assert int(new_pages) < 4000 if kept else int(new_pages) > 12000


@needs_glibc
@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"JAXCNN_KEEP_MEMORY": "off"}, "JAXCNN_KEEP_MEMORY disables it"),
        ({"MALLOC_ARENA_MAX": "2"}, "MALLOC_ARENA_MAX configures malloc"),
        ({"LD_PRELOAD": "libjemalloc.so.2"}, "LD_PRELOAD configures malloc"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, "GLIBC_TUNABLES configures malloc"),
        ({"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}, None),
        ({}, None),
    ],
)
def test_memory_is_left_to_a_user_who_configures_it(environment, says):
    assert startup._why_not_keep_memory(environment, None) == says
    assert startup._why_not_keep_memory(environment, 2**20) == says
    assert startup._why_not_keep_memory(environment, 784) == "the batch is small"


def test_without_glibc_memory_is_left_to_the_system(monkeypatch):
    monkeypatch.setattr(startup.platform, "libc_ver", lambda: ("", ""))
    assert startup._why_not_keep_memory({}, None) == "the C library is not glibc"


# The whole


def test_what_was_set_is_said_in_one_line():
    settings = Settings(
        keeps_freed_memory=True,
        xla_options=(),
        compilation_cache=Path("/cache/jaxcnn/compiled"),
        left_alone=(("XLA options", "JAXCNN_XLA_OPTIONS disables them"),),
    )
    assert str(settings) == (
        "freed memory: kept; XLA options: unchanged (JAXCNN_XLA_OPTIONS disables them); "
        "compilation cache: /cache/jaxcnn/compiled"
    )


SETTLES = """
import jax, json, os, sys
from jaxcnn import startup

given = os.environ.get("XLA_FLAGS")
if sys.argv[1] == "late":
    jax.numpy.ones(3)
settings = startup.settle()
again = startup.settle()
assert startup.settled() == again
print(json.dumps({
    "sum": float(jax.numpy.ones(3).sum()),  # an option that jaxlib lacks would end the process
    "flags": os.environ.get("XLA_FLAGS"),
    "options": settings.xla_options,
    "cache": str(settings.compilation_cache),
    "jax": jax.config.jax_compilation_cache_dir,
    "left alone": dict(settings.left_alone),
    "again": dict(again.left_alone),
    "line": str(settings),
}))
"""


def test_jax_starts_with_what_was_settled(tmp_path):
    said = json.loads(run(SETTLES, tmp_path, "early", JAX_PLATFORMS="cpu", JAXCNN_KERNELS="xla"))
    assert said["sum"] == 3.0
    assert said["line"].count("\n") == 0
    if said["options"]:
        assert said["flags"].split() == said["options"] == [*startup.XLA_OPTIONS]
        # Programs that call XLA's oneDNN cannot be stored.
        assert (said["cache"], said["jax"]) == ("None", None)
        assert said["again"]["XLA options"] == "XLA_FLAGS sets them already"
        assert said["again"]["compilation cache"] == "programs that call XLA's oneDNN cannot be stored"
    else:
        assert said["flags"] is None
        assert said["left alone"]["XLA options"].endswith("does not use them")
        assert said["cache"] == said["jax"] == str(tmp_path / "jaxcnn" / "compiled")
        assert said["again"]["compilation cache"].endswith("/compiled")
    version = startup.metadata.version("jaxlib")
    assert bool(said["options"]) == (not version.startswith("0.10."))


def test_a_call_after_jax_has_started_says_that_it_is_too_late(tmp_path):
    said = json.loads(run(SETTLES, tmp_path, "late", JAX_PLATFORMS="cpu", JAXCNN_KERNELS="xla"))
    assert said["left alone"]["XLA options"] == "JAX has already started, and reads XLA_FLAGS only when it starts"
    assert said["left alone"]["compilation cache"].startswith("JAX has already started")
    assert (said["flags"], said["jax"]) == (None, None)
    assert "JAX has already started: memory that its threads hold is not affected" in said["line"] or not HAS_GLIBC


# The command line, and what a run says

COMMAND = """
import sys
from jaxcnn import startup
import jaxcnn.train as train
train.fit = lambda *args, **options: sys.exit(print(startup.settled() is not None, startup.keeps_freed_memory()))
from jaxcnn import cli
if sys.argv[1] == "script":
    sys.argv = ["jaxcnn", *sys.argv[2:]]
    cli.run()
else:
    cli.main(sys.argv[2:])
"""


@needs_glibc
@pytest.mark.parametrize(
    ("how", "batch_size", "said"),
    [("script", 1, "True False"), ("script", 512, "True True"), ("main", 512, "False False")],
)
def test_only_the_console_script_settles_its_process_and_by_the_batch(tmp_path, how, batch_size, said):
    flags = ["train", "--batch-size", str(batch_size), "--workdir", str(tmp_path / "run")]
    assert run(COMMAND, tmp_path, how, *flags, JAX_PLATFORMS="cpu").strip() == said


@needs_glibc
def test_a_run_says_what_it_loses_only_where_it_does(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD", "JAXCNN_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(startup, "_settings", None)
    line = startup.advice(2**20, "cpu")
    assert "call jaxcnn.startup.settle() before JAX starts" in line
    assert len(line.splitlines()) == 1
    table = (Path(__file__).parents[2] / "benchmarks" / "README.md").read_text()
    (row,) = (text for text in table.splitlines() if "`jaxcnn.startup.settle`" in text)
    assert "1.10" in line and "(1.10)" in row  # noqa: PT018
    assert "1.35" in line and "(1.35 times)" in row  # noqa: PT018
    assert startup.advice(2**20, "gpu") is None
    assert startup.advice(2**10, "cpu") is None
    monkeypatch.setenv("JAXCNN_KEEP_MEMORY", "0")
    assert startup.advice(2**20, "cpu") is None
    monkeypatch.delenv("JAXCNN_KEEP_MEMORY")
    monkeypatch.setattr(startup, "_settings", Settings(True, (), None, ()))
    assert startup.advice(2**20, "cpu") is None
