"""What the console script settles before JAX starts, and what it leaves to the user."""

import os
import platform
import subprocess
import sys

import jaxlib
import pytest

from jaxcnn.startup import XLA_OPTIONS, compilations, keep_freed_memory, xla_flags


def test_compilations_are_kept_in_a_folder_of_the_user(tmp_path):
    folder = compilations({"XDG_CACHE_HOME": str(tmp_path)})
    assert folder == tmp_path / "jaxcnn" / "compiled"
    assert folder.is_dir()


@pytest.mark.parametrize(
    "environment",
    [
        {"JAX_COMPILATION_CACHE_DIR": "/elsewhere"},
        {"JAX_COMPILATION_CACHE_DIR": ""},
        {"JAX_ENABLE_COMPILATION_CACHE": "false"},
    ],
)
def test_where_the_user_has_said_it_stays_so(tmp_path, environment):
    assert compilations({"XDG_CACHE_HOME": str(tmp_path), **environment}) is None
    assert not list(tmp_path.iterdir())


def test_without_a_folder_that_can_be_written_nothing_is_kept(tmp_path):
    (tmp_path / "file").touch()
    assert compilations({"XDG_CACHE_HOME": str(tmp_path / "file")}) is None


def test_xla_gets_options_only_in_versions_known_to_have_them():
    for version, options in XLA_OPTIONS.items():
        assert xla_flags({}, version, has_onednn=False) == xla_flags({}, f"{version}.1", has_onednn=False)
        assert xla_flags({}, version, has_onednn=False).split() == list(options)
    assert xla_flags({}, "0.10.2", has_onednn=False) is None
    assert xla_flags({}, "99.0.0", has_onednn=False) is None


@pytest.mark.parametrize("version", XLA_OPTIONS)
def test_xlas_options_are_the_users_if_he_has_set_them(version):
    for option in XLA_OPTIONS[version]:
        given = {"XLA_FLAGS": f"{option.split('=')[0]}=mine"}
        assert given["XLA_FLAGS"] in xla_flags(given, version, has_onednn=False)
        assert option not in xla_flags(given, version, has_onednn=False)
    assert xla_flags({"JAXCNN_XLA_OPTIONS": "0"}, version, has_onednn=False) is None
    assert xla_flags({}, version, has_onednn=True) is None


def test_jax_starts_with_what_was_settled(tmp_path):
    program = (
        "import jax, os; from jaxcnn import startup; startup._has_onednn = lambda: False; startup.settle();"
        "print(float(jax.numpy.ones(3).sum()), jax.config.jax_compilation_cache_dir, os.environ.get('XLA_FLAGS', ''))"
    )
    unset = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    total, folder, *flags = run.stdout.split()  # an option that jaxlib lacks would have ended the process
    options = list(XLA_OPTIONS.get(".".join(jaxlib.__version__.split(".")[:3]), ()))
    assert flags == options
    # Programs that call XLA's oneDNN cannot be kept.
    assert (total, folder) == ("3.0", "None" if options else str(tmp_path / "jaxcnn" / "compiled")), run.stderr


PROGRAM = """
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere memory is left to the system")
@pytest.mark.parametrize("kept", [True, False])
def test_a_steps_memory_is_kept_for_the_next_one_unless_that_is_switched_off(tmp_path, kept):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAXCNN_KEEP_MEMORY": "01"[kept]}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    told, new_pages = run.stdout.split()
    assert told == str(kept), run.stderr
    # 64 MB, of which there are some in sorting a sine, are 16,000 pages, given by the system anew or not.
    assert int(new_pages) < 4000 if kept else int(new_pages) > 12000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere memory is left to the system")
@pytest.mark.parametrize(("batch_size", "kept"), [(1, False), (512, True)])
def test_a_small_batchs_memory_is_not_kept(tmp_path, batch_size, kept):
    program = "import sys, runpy; from jaxcnn import startup; import jaxcnn.train as train;"
    program += "train.fit = lambda *args, **kwargs: sys.exit(40 + startup.keeps_freed_memory());"
    program += (
        f"sys.argv = ['jaxcnn', 'train', '--batch-size', '{batch_size}', '--workdir', {str(tmp_path / 'run')!r}];"
    )
    program += "runpy.run_module('jaxcnn.cli.__main__', run_name='__main__')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "XLA_"))}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert run.returncode == 40 + kept, run.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"JAXCNN_KEEP_MEMORY": "off"},
        {"MALLOC_ARENA_MAX": "2"},
        {"LD_PRELOAD": "libjemalloc.so.2"},
        {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    ],
)
def test_memory_is_left_to_whoever_has_set_it_up_otherwise(environment):
    assert not keep_freed_memory(environment)
