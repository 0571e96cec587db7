"""Eight CPU devices, so that parallel code is tested as such on any machine, and programs compiled once."""

import os
from pathlib import Path

# Set before JAX looks for devices; an accelerator, if there is one, is left alone.
os.environ["JAX_PLATFORMS"] = "cpu"
# Workers and the processes that tests start share what one of them has compiled; so does the next run.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax

jax.config.update("jax_num_cpu_devices", 8)
