"""Eight CPU devices, so that parallel code is tested as such on any machine."""

import os

# Set before JAX looks for devices; an accelerator, if there is one, is left alone.
os.environ["JAX_PLATFORMS"] = "cpu"

import jax

jax.config.update("jax_num_cpu_devices", 8)
