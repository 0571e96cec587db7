"""Initial values of kernels, under the names by which the literature knows them.

Each is a function `(key, shape, dtype) -> array`. The variance of a weight is set from the number of inputs
(`fan_in`) and outputs (`fan_out`) of a unit, so that signals keep their size from layer to layer.

- Xavier (Glorot and Bengio, *Understanding the difficulty of training deep feedforward neural networks*, 2010,
  equation 16): `Var(w) = 2 / (fan_in + fan_out)`, for activations that are linear around 0 (tanh, sigmoid).
- He (He et al., *Delving Deep into Rectifiers*, 2015, equation 10): `Var(w) = 2 / fan_in`, for ReLU, which
  silences half of its inputs.

A uniform distribution on `(-a, a)` has variance `a^2 / 3`.
"""

from flax.linen.initializers import constant, normal, ones, zeros
from jax.nn.initializers import glorot_normal, glorot_uniform, he_normal, he_uniform, lecun_normal

# jax.nn.initializers names the constructors; the modules' fields want the functions themselves.
xavier_uniform = glorot_uniform()
xavier_normal = glorot_normal()
he_uniform = he_uniform()
he_normal = he_normal()
lecun_normal = lecun_normal()

__all__ = [
    "constant",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "normal",
    "ones",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
