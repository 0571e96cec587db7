"""Array types of public signatures: `Float[Array, "n h w c"]` is an array of floats with four axes, named n, h, w, c.

`Float` includes bfloat16 and float16. `Num` includes all real and complex dtypes. `Shaped` includes every dtype. Within
a signature, axes with equal names have equal sizes. `*shape` stands for any number of axes, and `...` stands for any
number of unnamed axes. The type names come from the package jaxtyping. If jaxtyping is not installed,
`Float[Array, "n h w c"]` is `Array`.

jaxcnn does not check array types at run time. The tests of jaxcnn check array types.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

if TYPE_CHECKING:
    # A type checker ignores the shape, as in jaxtyping's own stubs.
    from typing import Annotated as Bool
    from typing import Annotated as Complex
    from typing import Annotated as Float
    from typing import Annotated as Float32
    from typing import Annotated as Inexact
    from typing import Annotated as Int
    from typing import Annotated as Integer
    from typing import Annotated as Key
    from typing import Annotated as Num
    from typing import Annotated as Shaped
    from typing import Annotated as UInt8
    from typing import Annotated as UInt32
else:
    try:
        from jaxtyping import Bool, Complex, Float, Float32, Inexact, Int, Integer, Key, Num, Shaped, UInt8, UInt32
    except ModuleNotFoundError:

        class Shaped:
            """Replaces every type of jaxtyping if jaxtyping is not installed: `Float[Array, "n c"]` is `Array`."""

            def __class_getitem__(cls, subscript: tuple[Any, str]) -> Any:
                return subscript[0]

        Bool = Complex = Float = Float32 = Inexact = Int = Integer = Key = Num = UInt8 = UInt32 = Shaped

PyTree: TypeAlias = Any
"""Nested tuples, lists, dicts and dataclasses of arrays."""

AnyArray: TypeAlias = Array | np.ndarray
"""A JAX or a NumPy array. `Float[AnyArray, "n c"]` accepts arrays of both libraries."""

if TYPE_CHECKING:
    InputArray: TypeAlias = Array
    """The input of a layer or a model: a JAX array or a NumPy array.

    A type checker sees `InputArray` as `Array`, so that it accepts JAX operations on the input.
    """
else:
    InputArray = AnyArray

KeyArray: TypeAlias = Key[Array, ""] | UInt32[Array, "2"]
"""A random key, from `jax.random.key` or from `jax.random.PRNGKey`."""

__all__ = [
    "AnyArray",
    "Array",
    "ArrayLike",
    "Bool",
    "Complex",
    "DTypeLike",
    "Float",
    "Float32",
    "Inexact",
    "InputArray",
    "Int",
    "Integer",
    "Key",
    "KeyArray",
    "Num",
    "PyTree",
    "Shaped",
    "UInt8",
    "UInt32",
]
