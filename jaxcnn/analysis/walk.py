"""Walk through the equations of a jaxpr, its calls, loops and branches, and collect receptive fields and costs.

A walk computes nothing. A walk carries the receptive field of every array (`jaxcnn.analysis.receptive_field`) through
the program. `marked` uses `checkpoint_name` to mark where a leaf module begins and ends. These marks survive `jit`,
`remat`, `scan` and `vmap`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var, jaxprs_in_params

from jaxcnn.analysis.receptive_field import WHOLE, Field, blur, is_known, join, shape, transfer

MARK = "jaxcnn.analysis"

SCAN_STEPS = 1000
"""Maximum length of a scan that is followed step by step. The outputs of a longer scan count as seeing the whole
image."""


def marked(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` with marks before each call of a Linen module, and after each call of a leaf module."""

    def traced(*args: Any) -> Any:
        calls: list[_Call] = []

        def intercept(call: Any, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext) -> Any:
            path, callers = context.module.path, list(calls)
            # If a module calls a module that is not its submodule, the path of the called module is misleading.
            detached = bool(calls) and (calls[-1].detached or (not path and bool(calls[-1].path)))
            calls.append(_Call(path, detached))
            try:
                if context.method_name != "__call__" or detached:
                    return call(*args, **kwargs)
                for caller in callers:
                    caller.is_leaf = False
                tag = f"{type(context.module).__name__} {'/'.join(path)}"
                output = call(*_mark(args, f"enter {tag}"), **_mark(kwargs, f"enter {tag}"))
                if not calls[-1].is_leaf:
                    return output
                *others, last = jax.tree.leaves(output)
                return jax.tree.unflatten(jax.tree.structure(output), [*others, _mark(last, f"leave {tag}")])
            finally:
                calls.pop()

        with nn.intercept_methods(intercept):
            return fn(*args)

    return traced


@dataclass
class _Call:
    """A call of a method of a Linen module, during tracing."""

    path: tuple[str, ...]
    detached: bool = False
    is_leaf: bool = True


def _mark(tree: Any, event: str) -> Any:
    def mark(x: Any) -> Any:
        is_array = isinstance(x, jax.Array) and not jnp.issubdtype(x.dtype, jax.dtypes.extended)
        return checkpoint_name(x, f"{MARK} {event}") if is_array else x

    return jax.tree.map(mark, tree)


@dataclass(frozen=True)
class Step:
    """A call of a leaf module, or an equation: its output, multiply-adds and receptive field."""

    name: str
    kind: str
    output: Any
    macs: int
    field: Field | None


class Walk:
    """A walk over a program, which collects its multiply-adds and the rows of its table.

    Attributes:
      macs: multiply-adds of the equations that were visited so far.
      modules: calls of leaf modules that were visited so far.
      equations: equations that were visited so far and are rows of the table of a function without modules.
    """

    def __init__(self, count_padding: bool = True):
        self.macs = 0
        self.modules: list[Step] = []
        self.equations: list[Step] = []
        self._count_padding = count_padding
        self._entered = ("", 0)

    def run(self, jaxpr: Jaxpr, inputs: Sequence[Field | None], scope: str = "", times: int = 1) -> list[Field | None]:
        """Visit every equation of `jaxpr`, which runs `times` times, and return the receptive fields of the outputs."""
        fields: dict[Var, Field | None] = dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Var | Literal) -> Field | None:
            return None if isinstance(atom, Literal) else fields.get(atom)

        for eqn in jaxpr.eqns:
            inner = "/".join(filter(None, [scope, str(eqn.source_info.name_stack)]))
            outputs = self._equation(eqn, [read(atom) for atom in eqn.invars], inner, times)
            fields.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: JaxprEqn, inputs: list[Field | None], scope: str, times: int) -> list[Field | None]:
        name, bodies = eqn.primitive.name, list(jaxprs_in_params(eqn.params))
        if name == "scan":
            return self._scan(eqn, bodies[0], inputs, scope, times)
        if name == "cond":
            return self._cond(bodies, inputs, scope, times)
        if len(bodies) == 1 and is_call(eqn, bodies[0]):
            return self.run(bodies[0], inputs, scope, times)
        if bodies and not is_known(eqn):  # a while loop or a Pallas kernel: each body counts once
            for body in bodies:
                self.run(body, [blur(inputs)] * len(body.invars), scope, times)
        outputs = transfer(eqn, inputs)
        if name == "name" and eqn.params["name"].startswith(MARK):
            self._read_mark(eqn, outputs[0])
        macs = times * multiply_adds(eqn, self._count_padding)
        self.macs += macs
        if outputs and outputs[0] is not None and (macs or name.startswith("reduce_window")):
            self.equations.append(Step(scope, name, eqn.outvars[0].aval, macs, outputs[0]))
        return outputs

    def _read_mark(self, eqn: JaxprEqn, field: Field | None) -> None:
        _, event, kind, name = eqn.params["name"].split(" ", 3)
        if event == "enter":
            self._entered = (f"{kind} {name}", self.macs)
        else:
            macs = self.macs - self._entered[1] if self._entered[0] == f"{kind} {name}" else 0
            self.modules.append(Step(name, kind, eqn.outvars[0].aval, macs, field))

    def _scan(
        self, eqn: JaxprEqn, body: Jaxpr, inputs: list[Field | None], scope: str, times: int
    ) -> list[Field | None]:
        # The inputs are constants, carries and scanned arrays. The outputs are carries and stacked arrays. In the body,
        # scanned and stacked arrays have one axis less.
        length = int(eqn.params["length"])
        carries = sum(len(shape(a)) == len(shape(b)) for a, b in zip(eqn.outvars, body.outvars, strict=True))
        kept = sum(len(shape(a)) == len(shape(b)) for a, b in zip(eqn.invars, body.invars, strict=True))
        if length > SCAN_STEPS:
            self.run(body, [blur(inputs)] * len(inputs), scope, times * length)
            return [blur(inputs)] * len(eqn.outvars)
        constants, carry = inputs[: kept - carries], inputs[kept - carries : kept]
        sliced, stacked = [_renumbered(field, -1) for field in inputs[kept:]], [None] * (len(eqn.outvars) - carries)
        for _ in range(length):
            outputs = self.run(body, [*constants, *carry, *sliced], scope, times)
            carry, stacked = outputs[:carries], [join(ys) for ys in zip(stacked, outputs[carries:], strict=True)]
        return carry + [_renumbered(field, 1) for field in stacked]

    def _cond(self, bodies: list[Jaxpr], inputs: list[Field | None], scope: str, times: int) -> list[Field | None]:
        branches = [Walk(self._count_padding) for _ in bodies]
        pairs = zip(branches, bodies, strict=True)
        results = [branch.run(body, inputs[1:], scope, times) for branch, body in pairs]
        costliest = max(branches, key=lambda branch: branch.macs)
        self.macs += costliest.macs
        self.modules += costliest.modules
        self.equations += costliest.equations
        # The index decides which branch runs, so an index that depends on the image affects every output.
        return [WHOLE if inputs[0] is not None else join(outputs) for outputs in zip(*results, strict=True)]


def _renumbered(field: Field | None, by: int) -> Field | None:
    """Return the field after the first axis was removed from the array (`by=-1`) or added (`by=1`)."""
    return field and tuple(replace(i, axis=i.axis + by) if i and i.axis + by >= 0 else None for i in field)


def is_call(eqn: JaxprEqn, body: Jaxpr) -> bool:
    """Return whether an equation only calls its body: jit, remat, custom derivatives, closed calls, ...

    The test is by shape, not by name: the inputs and outputs of the body have the same shapes as those of the equation.
    """
    pairs = ((eqn.invars, body.invars), (eqn.outvars, body.outvars))
    return eqn.primitive.name != "while" and all([*map(shape, a)] == [*map(shape, b)] for a, b in pairs)


def multiply_adds(eqn: JaxprEqn, count_padding: bool = True) -> int:
    """Return the multiply-adds of a convolution or dot product, and 0 for every other equation.

    Kernel taps on the padding count only if `count_padding` is True. Taps on the zeros between the pixels of a dilated
    input, as in a transposed convolution, never count.
    """
    p = eqn.params
    if eqn.primitive.name == "dot_general":
        lhs, ((summed, _), _) = shape(eqn.invars[0]), p["dimension_numbers"]
        return math.prod(shape(eqn.outvars[0])) * math.prod(lhs[axis] for axis in summed)
    if eqn.primitive.name != "conv_general_dilated":
        return 0
    lhs, rhs, out = shape(eqn.invars[0]), shape(eqn.invars[1]), shape(eqn.outvars[0])
    numbers = p["dimension_numbers"]
    macs = out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * rhs[numbers.rhs_spec[1]]  # inputs within a group
    for k, (a, b, c) in enumerate(zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)):
        starts = np.arange(out[c]) * p["window_strides"][k] - p["padding"][k][0]
        taps = starts[:, None] + np.arange(rhs[b]) * p["rhs_dilation"][k]
        pixels, holes = np.divmod(taps, p["lhs_dilation"][k])
        macs *= int(np.sum((holes == 0) & (count_padding | ((pixels >= 0) & (pixels < lhs[a])))))
    return macs
