"""Measure compile time with an empty persistent compilation cache."""

import contextlib
import tempfile
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextlib.contextmanager
def fresh_compilation_cache() -> Iterator[None]:
    """Use an empty temporary folder as JAX's persistent compilation cache, and store every program there."""
    settings = {
        "jax_compilation_cache_dir": None,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with tempfile.TemporaryDirectory(prefix="jaxcnn-compiled-") as folder:
        try:
            for name, value in {**settings, "jax_compilation_cache_dir": folder}.items():
                jax.config.update(name, value)
            jax.clear_caches()
            compilation_cache.reset_cache()
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
