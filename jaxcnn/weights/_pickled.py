"""The pickles inside a PyTorch file, read without executing anything.

A pickle is a program for a small machine that may import and call whatever it names. This machine knows only the
instructions that PyTorch's `state_dict`s are written with, and no function at all: where a pickle names one of the
few in `GLOBALS`, the machine notes what it would have been called with. Any other name ends it, before anything else
is looked at. What comes out is dicts, lists, tuples, text, numbers and `Tensor`s, which say where arrays lie.

Source: the instructions as `pickletools` of the standard library describes them; what PyTorch writes, as its own
`torch/_weights_only_unpickler.py` reads it.
"""

import pickletools
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights._stored import BFLOAT16


class Storage(NamedTuple):
    """A row of numbers in the file, under a key."""

    key: str
    dtype: np.dtype
    length: int


class Tensor(NamedTuple):
    """An array over a storage; `offset` and `stride` are in numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Name(NamedTuple):
    """A global that a pickle may name: what it stands for here."""

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
    "collections OrderedDict": Name("dict"),
    "torch._utils _rebuild_tensor": Name("tensor"),
    "torch._utils _rebuild_tensor_v2": Name("tensor"),
    "torch._utils _rebuild_parameter": Name("parameter"),
    "torch.nn.parameter Parameter": Name("parameter"),
    **{f"torch {name}": Name("storage", dtype) for name, dtype in STORAGES.items()},
}

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")
BYTES = ("BINBYTES", "SHORT_BINBYTES")
LITERALS = frozenset([*NUMBERS, *TEXTS, *BYTES])
_MARK = object()


def read(data: Any) -> Any:
    """What the pickle means that starts at the place of `data`, a binary file or bytes; a file stands behind it then.

    Raises:
      UsageError: a pickle that names something else than PyTorch's tensors, or that is damaged.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.execute(opcode.name, argument)
        (result,) = machine.stack
    except UsageError:
        raise
    except Exception as error:  # the machine takes what it needs from the stack; a damaged program has anything there
        raise UsageError(f"its pickle is damaged ({_short(str(error) or type(error).__name__)})") from None
    return result


class _Machine:
    def __init__(self):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def execute(self, name: str, argument: Any) -> None:
        """One instruction."""
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
            stack.append(tuple(self._since_mark()))
        elif name == "APPEND":
            value = stack.pop()
            _expect(stack[-1], list).append(value)
        elif name == "APPENDS":
            values = self._since_mark()
            _expect(stack[-1], list).extend(values)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set(stack[-1], key, value)
        elif name == "SETITEMS":
            items = self._since_mark()
            for key, value in zip(items[::2], items[1::2], strict=True):
                _set(stack[-1], key, value)
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_call(function, arguments))
        elif name == "BUILD":
            stack.pop()  # attributes of the object below, such as an OrderedDict's `_metadata`; none of them matters
            _expect(stack[-1], dict)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise UsageError(f"its pickle has the instruction {name}, which no state dict needs")

    def _since_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("a mark is missing")
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values


def _lookup(name: str) -> Name:
    if name not in GLOBALS:
        raise UsageError(
            f"its pickle asks for {_short(name.replace(' ', '.', 1))}, and nothing but tensors is taken from a pickle; "
            "save model.state_dict() alone"
        )
    return GLOBALS[name]


def _call(function: Any, arguments: Any) -> Any:
    """What a call of a known global would give."""
    kind = _expect(function, Name).kind
    arguments = _expect(arguments, tuple)
    if kind == "dict":
        table: dict[Any, Any] = {}
        for key, value in arguments[0] if arguments else ():
            _set(table, key, value)
        return table
    if kind == "parameter":
        return _expect(arguments[0], Tensor)
    if kind != "tensor":
        raise ValueError("a storage is called as if it were a function")
    storage, offset, shape, stride = arguments[:4]
    numbers = (offset, *_expect(shape, tuple), *_expect(stride, tuple))
    if len(shape) != len(stride) or not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError("a tensor's shape and stride are not two rows of whole numbers")
    tensor = Tensor(_expect(storage, Storage), offset, shape, stride)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 not in shape and last >= storage.length:
        raise ValueError(f"a tensor of shape {_short(str(list(shape)))} reaches behind its storage's {storage.length}")
    return tensor


def _storage(identity: Any) -> Storage:
    """The storage that a persistent id stands for: `("storage", type, key, device, count[, view])`."""
    word, kind, key, _, count, *view = _expect(identity, tuple)
    if word != "storage" or _expect(kind, Name).kind != "storage" or any(part is not None for part in view):
        raise ValueError("a storage is given in an unknown way")
    if type(count) is not int or not 0 <= count < 2**63:
        raise ValueError("a storage's size is not a whole number")
    return Storage(_expect(key, str), kind.value, count)


def _set(table: Any, key: Any, value: Any) -> None:
    # A tuple could be a key too, but one that is nested a million deep overflows the C stack when it is hashed.
    _expect(table, dict)[_expect(key, str | int | float | None)] = value


def _expect(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} is where {getattr(kind, '__name__', kind)} should be")
    return value


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:80]}..."
