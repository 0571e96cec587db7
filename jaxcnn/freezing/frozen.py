"""Combine a model and its variables into one function of images."""

import inspect
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import UsageError, shortened
from jaxcnn.freezing import _fold, _program
from jaxcnn.layers.loops import unrolled

DTYPES = ("float32", "bfloat16", "float16")
"""Dtypes in which a frozen model can compute."""


def freeze(model: Any, variables: Any, *, dtype: Any = None) -> "Frozen":
    """Return a faster function of images `[N, H, W, C]` that computes `model.apply(variables, x, train=False)`.

    Batch normalization, biases, residual sums and ReLUs become parts of the convolutions before them, and the weights
    become constants of the program. On a CPU with native kernels, each of these convolutions is one native call, which
    arranges its weights once. All other operations are the same as in the model. The variables are copied.

    Args:
      model: a Linen module, called as `model(x, train)` or `model(x)`.
      variables: parameters and running statistics of the model, `{"params": ..., "batch_stats": ...}`, as arrays that
        are not traced.
      dtype: dtype of convolutions and of the feature maps between them: "float32", "bfloat16" or "float16". The dtype
        of the model's output does not change. With `dtype=None`, no dtype of the model changes.

    Returns:
      A `Frozen`.

    Raises:
      UsageError: `variables` are traced, deleted or not arrays; `dtype` is not "float32", "bfloat16", "float16" or
        None; or `model` has no method `apply`. Variables that do not fit the model raise the error at the first call
        for a shape of images.

    >>> from jaxcnn.layers import BatchNorm, Conv, ReLU, Sequential
    >>> model, x = Sequential([Conv(8, 3, padding=1), BatchNorm(), ReLU()]), jnp.ones((2, 8, 8, 3))
    >>> variables = model.init(jax.random.key(0), x, train=False)
    >>> bool(jnp.allclose(freeze(model, variables)(x), model.apply(variables, x, train=False), atol=1e-5))
    True
    """
    if not callable(getattr(model, "apply", None)):
        raise UsageError(
            f"cannot freeze a {type(model).__name__}: this object has no method `apply`. Give a Linen module."
        )
    if dtype is not None:
        try:
            name = jnp.dtype(dtype).name
        except TypeError:
            name = shortened(dtype)
        if name not in DTYPES:
            raise UsageError(f"cannot freeze in dtype {name}. Give one of {', '.join(DTYPES)}, or None.")
        dtype = jnp.dtype(name)
    return Frozen(model, jax.tree.map(_copied, variables), dtype)


def _copied(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.core.Tracer):
        raise UsageError(
            "cannot freeze traced variables: their values are not known. Call freeze outside of jit, grad and vmap."
        )
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise UsageError(f"cannot freeze variables with a {type(leaf).__name__} among them. Give JAX or NumPy arrays.")
    try:
        return np.array(leaf)
    except (RuntimeError, TypeError) as error:  # the arrays are deleted, on other hosts, or random keys
        raise UsageError(
            f"cannot freeze variables whose values cannot be read: {_first_line(error)}. "
            "Give arrays that this process can read."
        ) from error


class Frozen:
    """A function of images `[N, H, W, C]` that returns a model's output in evaluation; `freeze` creates it.

    The batch size N may be any number or a symbolic size. The function works under every transformation of JAX, on
    every platform, and is compiled once for each shape of images. The function can be differentiated with respect to
    the images.

    Attributes:
      model: the frozen model.
      dtype: dtype of the convolutions; None if they compute in the dtypes of the model.

    Raises:
      UsageError: the model cannot be applied with its variables to the images of a call.

    >>> from jaxcnn.layers import GlobalAvgPool
    >>> frozen = freeze(GlobalAvgPool(), {})
    >>> isinstance(frozen, Frozen), frozen(jnp.ones((2, 8, 8, 3))).shape, frozen.named_arrays()
    (True, (2, 3), [])
    """

    def __init__(self, model: Any, variables: Any, dtype: Any):
        self.model, self.dtype = model, dtype
        self._variables = variables
        self._memo = _fold.Memo(jax.tree.leaves(variables))
        self._compiled = jax.jit(self._traced)

    def __call__(self, x: Any) -> Any:
        """Return the model's output for normalized images `[N, H, W, C]`.

        Raises:
          UsageError: the model cannot be applied with these variables to images of this shape.
        """
        return self._compiled(x)

    def named_arrays(self) -> list[tuple[str, np.ndarray]]:
        """Return the variables, and the kernels that were folded so far, each with the path of its variable."""
        paths = jax.tree_util.tree_leaves_with_path(self._variables)
        names = {id(leaf): "/".join(str(getattr(key, "key", key)) for key in path) for path, leaf in paths}
        leaves = [(names[id(leaf)], leaf) for _, leaf in paths]
        return leaves + [(names[id(leaf)], kernel) for leaf, kernel in self._memo.kernels()]

    def __repr__(self) -> str:
        return f"Frozen({type(self.model).__name__}, dtype={self.dtype and self.dtype.name})"

    def __getstate__(self) -> tuple[Any, ...]:
        return self.model, self._variables, self.dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)

    def _traced(self, x: jax.Array) -> Any:
        leaves, tree = jax.tree.flatten(self._variables)

        def apply(leaves: Any, x: jax.Array) -> Any:
            return self._apply(jax.tree.unflatten(tree, leaves), x)

        try:
            with unrolled():  # convolutions inside a loop could not be folded
                traced, shapes = jax.make_jaxpr(apply, return_shape=True)(leaves, x)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"cannot apply {type(self.model).__name__} with these variables to images of shape {x.shape}: "
                f"{_first_line(error)}. Give the variables of this model, and images of a shape that the model accepts."
            ) from error
        program, used = _program.read(traced, leaves, x)
        if not all(used):
            self._check_unused(x, used)
        outputs = _fold.folded(program, self.dtype, self._memo).run(x)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    def _apply(self, variables: Any, x: jax.Array) -> Any:
        return self.model.apply(variables, x, **self._options())

    def _options(self) -> dict[str, Any]:
        """Return the arguments, besides the images, with which the model is called in evaluation."""
        return {"train": False} if "train" in inspect.signature(type(self.model).__call__).parameters else {}

    def _check_unused(self, x: jax.Array, used: list[bool]) -> None:
        """Raise `UsageError` if the given variables contain a parameter that the model does not have."""
        image = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)

        def initialized(x: jax.Array) -> Any:
            rngs = {name: jax.random.key(0) for name in ("params", "dropout")}
            return self.model.init(rngs, x, **self._options())

        try:
            known = jax.eval_shape(initialized, image)
        except Exception:  # without `init`, the names of the model's variables are unknown
            return
        paths = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(known)}
        own = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(self._variables)]
        strange = [path for path, is_used in zip(own, used, strict=True) if not is_used and path not in paths]
        if strange and paths:  # a model without variables ignores given variables
            raise UsageError(
                f"{type(self.model).__name__} has no variable {strange[0]}: {len(strange)} of the given variables do "
                "not belong to the model. Give the variables of this model."
            )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shortened(lines[0].partition(" (http")[0].rstrip("."))  # Flax adds a link
