"""Array types of public signatures: `Float[Array, "n h w c"]` is an array of floats with four axes, named n, h, w, c.

`Float` includes bfloat16 and float16, `Num` all real and complex numbers, and `Shaped` every dtype. Within a signature,
axes of equal names have equal sizes, `*shape` stands for any number of axes, and `...` for any axes without a name. The
names are those of the package jaxtyping. If jaxtyping is not installed, `Float[Array, "n h w c"]` is `Array`.

The library does not check these types. The tests do.
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
            """Stands for each of jaxtyping's names: the subscript `[Array, shape]` gives the array type alone."""

            def __class_getitem__(cls, subscript: tuple[Any, str]) -> Any:
                return subscript[0]

        Bool = Complex = Float = Float32 = Inexact = Int = Integer = Key = Num = UInt8 = UInt32 = Shaped

PyTree: TypeAlias = Any
"""Nested tuples, lists, dicts and dataclasses of arrays."""

AnyArray: TypeAlias = Array | np.ndarray
"""A JAX or a NumPy array. `Float[AnyArray, "n c"]` accepts both."""

if TYPE_CHECKING:
    InputArray: TypeAlias = Array
    """The input of a layer or a model: a JAX array, or a NumPy array, which layers treat alike.

    A type checker sees `Array`, so that it accepts the operations of layers.
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
