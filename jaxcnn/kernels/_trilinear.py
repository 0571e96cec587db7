"""Kernels that are derivatives of a form `<G, f(X, W)>`, where the form is linear in each of its three tensors."""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, ClassVar

import jax

from jaxcnn.kernels._primitive import Kernel, call


class Role(IntEnum):
    """The tensor with respect to which the form is differentiated: G (OUTPUT), X (IMAGE: images or data) or W."""

    OUTPUT = 0
    IMAGE = 1
    KERNEL = 2


OPERANDS = {
    Role.OUTPUT: (Role.IMAGE, Role.KERNEL),
    Role.IMAGE: (Role.OUTPUT, Role.KERNEL),
    Role.KERNEL: (Role.IMAGE, Role.OUTPUT),
}
"""For each role, the two tensors from which it is computed, in the order of the kernel's operands."""


@dataclass(frozen=True)
class Trilinear(Kernel):
    """Compute one of the three tensors of a form from the other two. The adjoints of a role are the other two roles.

    Attributes:
      role: the tensor that is computed.
    """

    role: Role
    linear: ClassVar = ((0,), (1,))

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        (index,) = group
        wanted, other = OPERANDS[self.role][index], OPERANDS[self.role][1 - index]
        given = {self.role: cts[0], other: operands[1 - index]}
        first, second = OPERANDS[wanted]
        return [*call(replace(self, role=wanted), given[first], given[second])]
