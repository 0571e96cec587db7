"""Read the pickles inside a PyTorch file without executing anything.

A pickle is a program for a stack machine that may import and call any function that it names. The machine in this
module differs in three ways:

- It implements only the instructions that PyTorch uses to write a `state_dict`.
- It calls no function. For the names in `GLOBALS`, it records the arguments of the call.
- It refuses every other name.

The result consists of dicts, lists, tuples, strings, numbers, bytes and `Tensor` records, which say where arrays are
stored.

References:
  The instructions: `pickletools` of the standard library.
  The instructions that PyTorch writes: `torch/_weights_only_unpickler.py`.
"""

import pickletools
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights._stored import BFLOAT16


class Storage(NamedTuple):
    """A one-dimensional buffer of `length` values in the file, identified by `key`."""

    key: str
    dtype: np.dtype
    length: int


class Tensor(NamedTuple):
    """A view of a storage. `offset` and `stride` count values, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Global(NamedTuple):
    """Meaning of a global that a pickle may name: "dict", "tensor", "parameter", or "storage" with a dtype."""

    kind: str
    value: Any = None


STORAGES = {
    "DoubleStorage": np.dtype("f8"),
    "FloatStorage": np.dtype("f4"),
    "HalfStorage": np.dtype("f2"),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype("i8"),
    "IntStorage": np.dtype("i4"),
    "ShortStorage": np.dtype("i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}

GLOBALS = {
    "collections OrderedDict": Global("dict"),
    "torch._utils _rebuild_tensor": Global("tensor"),
    "torch._utils _rebuild_tensor_v2": Global("tensor"),
    "torch._utils _rebuild_parameter": Global("parameter"),
    "torch.nn.parameter Parameter": Global("parameter"),
    **{f"torch {name}": Global("storage", dtype) for name, dtype in STORAGES.items()},
}

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")
BYTES = ("BINBYTES", "SHORT_BINBYTES")
LITERALS = frozenset([*NUMBERS, *TEXTS, *BYTES])
_MARK = object()


def read(data: Any) -> Any:
    """Read one pickle.

    Args:
      data: bytes, or a binary file at the start of the pickle. The position of the file moves to the end of the pickle.

    Raises:
      UsageError: the pickle is damaged, or asks for anything other than PyTorch tensors.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.execute(opcode.name, argument)
        (result,) = machine.stack
    except UsageError:
        raise
    except Exception as error:  # a damaged pickle may leave values of any type on the stack
        raise UsageError(f"its pickle is damaged ({_abbreviate(str(error) or type(error).__name__)})") from None
    return result


class _Machine:
    """Stack machine that interprets the instructions of a pickle."""

    def __init__(self):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def execute(self, name: str, argument: Any) -> None:
        """Execute one instruction.

        Raises:
          UsageError: the instruction or a name in it is refused.
        """
        stack = self.stack
        if name in LITERALS:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(argument)])
        elif name == "GLOBAL":
            stack.append(_lookup(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_lookup(f"{_expect(module, str)} {_expect(attribute, str)}"))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            stack[-size:] = [tuple(stack[-size:])]
        elif name == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif name == "APPEND":
            value = stack.pop()
            _expect(stack[-1], list).append(value)
        elif name == "APPENDS":
            values = self._pop_to_mark()
            _expect(stack[-1], list).extend(values)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set_item(stack[-1], key, value)
        elif name == "SETITEMS":
            items = self._pop_to_mark()
            for key, value in zip(items[::2], items[1::2], strict=True):
                _set_item(stack[-1], key, value)
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_call(function, arguments))
        elif name == "BUILD":
            stack.pop()  # ignore attributes of the object below, such as `_metadata` of an OrderedDict
            _expect(stack[-1], dict)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise UsageError(f"its pickle contains the instruction {name}. Save `model.state_dict()` alone")

    def _pop_to_mark(self) -> list[Any]:
        """Remove and return the values above the topmost mark, and remove the mark."""
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("a mark is missing")
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values


def _lookup(name: str) -> Global:
    if name not in GLOBALS:
        raise UsageError(
            f"its pickle asks for {_abbreviate(name.replace(' ', '.', 1))}, but may contain only tensors. "
            "Save `model.state_dict()` alone"
        )
    return GLOBALS[name]


def _call(function: Any, arguments: Any) -> Any:
    """Return the object that a call of a known global stands for: a dict or a `Tensor`."""
    kind = _expect(function, Global).kind
    arguments = _expect(arguments, tuple)
    if kind == "dict":
        table: dict[Any, Any] = {}
        for key, value in arguments[0] if arguments else ():
            _set_item(table, key, value)
        return table
    if kind == "parameter":
        return _expect(arguments[0], Tensor)
    if kind != "tensor":
        raise ValueError("a storage is called as a function")
    storage, offset, shape, stride = arguments[:4]
    numbers = (offset, *_expect(shape, tuple), *_expect(stride, tuple))
    if len(shape) != len(stride) or not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError("the shape and stride of a tensor are not integers, or differ in length")
    tensor = Tensor(_expect(storage, Storage), offset, shape, stride)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 not in shape and last >= storage.length:
        raise ValueError(f"a tensor of shape {_abbreviate(str(list(shape)))} exceeds its storage of {storage.length}")
    return tensor


def _storage(identity: Any) -> Storage:
    """Return the storage with the persistent id `("storage", type, key, device, count[, view])`."""
    word, kind, key, _, count, *view = _expect(identity, tuple)
    if word != "storage" or _expect(kind, Global).kind != "storage" or any(part is not None for part in view):
        raise ValueError("the persistent id of a storage has an unknown form")
    if type(count) is not int or not 0 <= count < 2**63:
        raise ValueError("the size of a storage is not a valid integer")
    return Storage(_expect(key, str), kind.value, count)


def _set_item(table: Any, key: Any, value: Any) -> None:
    # Tuples are refused as keys, since hashing a tuple nested a million deep overflows the C stack.
    _expect(table, dict)[_expect(key, str | int | float | None)] = value


def _expect(value: Any, kind: Any) -> Any:
    """Return `value` if it is an instance of `kind`; raise `ValueError` otherwise."""
    if not isinstance(value, kind):
        raise ValueError(f"expected {getattr(kind, '__name__', kind)}, got {type(value).__name__}")
    return value


def _abbreviate(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:80]}..."
