"""Read the pickles inside a PyTorch file without executing anything.

A pickle is a program for a stack machine that may import and call any function that it names. The machine in this
module imports nothing and calls nothing. For the functions of PyTorch that make tensors, the machine records the
arguments in a `Tensor`. Every other object becomes a `Placeholder`, which keeps the attributes and items that the
pickle gives it.

The machine also limits memory: it copies a list at most as often as the pickle has instructions.

References:
  The instructions: `pickletools` of the standard library.
  The instructions that PyTorch writes: `torch/_weights_only_unpickler.py`.
"""

import pickletools
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights.torch_files.names import Global, abbreviate, lookup


class Storage(NamedTuple):
    """A one-dimensional buffer of `length` values in the file, identified by `key`."""

    key: str
    dtype: np.dtype
    length: int


class Tensor(NamedTuple):
    """A view of a storage as values of `dtype`. `offset` and `stride` count these values, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: np.dtype


class Unusable(NamedTuple):
    """A tensor that cannot be read. `kind` describes the tensor, such as "a sparse tensor"."""

    kind: str


class Placeholder:
    """An object of a class that the reader does not need.

    Attributes:
      name: name of the class or function that would have made the object.
      state: attributes that the pickle states for the object, or None.
      items: items that the pickle states for the object, if the object is like a dict.
    """

    __slots__ = ("items", "name", "state")

    def __init__(self, name: str):
        self.name = name
        self.state: Any = None
        self.items: dict[Any, Any] = {}


class Contents(NamedTuple):
    """The object in a pickle, and a dict from keys to the storages to which the pickle refers."""

    value: Any
    storages: dict[str, Storage]


CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")
BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
LITERALS = frozenset([*NUMBERS, *TEXTS, *BYTES])
_MARK = object()


def read(data: Any) -> Contents:
    """Read one pickle.

    Args:
      data: the pickle as bytes, or a binary file whose position is the start of the pickle. Reading moves the position
        to the end of the pickle.

    Raises:
      UsageError: if the pickle is damaged, or names a function that no checkpoint needs.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.execute(opcode.name, argument)
        (result,) = machine.stack
    except UsageError:
        raise
    except Exception as error:  # a damaged pickle may leave values of any type on the stack
        raise UsageError(f"the pickle is damaged ({abbreviate(str(error) or type(error).__name__)})") from None
    return Contents(result, machine.storages)


class _Machine:
    """Stack machine that interprets the instructions of a pickle."""

    def __init__(self):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.executed = 0
        self.copied = 0

    def execute(self, name: str, argument: Any) -> None:
        """Execute one instruction.

        Raises:
          UsageError: if the instruction, or a function or class that it names, is refused.
        """
        self.executed += 1
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif not (self._make(name, argument) or self._fill(name) or self._move(name, argument)):
            raise UsageError(f"the pickle of the file contains the instruction {name}. Save `model.state_dict()` alone")

    def _make(self, name: str, argument: Any) -> bool:
        """Execute an instruction that makes an object. Return False if the instruction makes no object."""
        stack = self.stack
        if name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name == "EMPTY_SET":
            stack.append(Placeholder("set"))
        elif name in ("DICT", "LIST", "TUPLE", "FROZENSET"):
            values = self._pop_to_mark()
            made = {"LIST": lambda: values, "TUPLE": lambda: tuple(values), "FROZENSET": lambda: Placeholder("set")}
            stack.append(self._dict(zip(values[::2], values[1::2], strict=True)) if name == "DICT" else made[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            stack[-size:] = [tuple(stack[-size:])]
        elif name == "GLOBAL":
            stack.append(lookup(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(lookup(_expect(module, str), _expect(attribute, str)))
        elif name == "INST":
            function = lookup(*argument.split(" ", 1))
            stack.append(self._call(function, tuple(self._pop_to_mark())))
        elif name == "OBJ":
            function, *arguments = self._pop_to_mark()
            stack.append(self._call(function, tuple(arguments)))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            if name == "NEWOBJ_EX":
                _expect(stack.pop(), dict)
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, _expect(arguments, tuple)))
        elif name == "BINPERSID":
            stack.append(self._persistent(stack.pop()))
        else:
            return False
        return True

    def _fill(self, name: str) -> bool:
        """Execute an instruction that changes an object. Return False if the instruction changes no object."""
        stack = self.stack
        if name in ("APPEND", "APPENDS", "ADDITEMS"):
            values = [stack.pop()] if name == "APPEND" else self._pop_to_mark()
            if not isinstance(stack[-1], Placeholder):  # the items of a set or a deque are not needed
                _expect(stack[-1], list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._pop_to_mark()
            target = stack[-1].items if isinstance(stack[-1], Placeholder) else _expect(stack[-1], dict)
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Placeholder):
                stack[-1].state = state
            else:  # such as the attribute `_metadata` of an OrderedDict, which is not needed
                _expect(stack[-1], dict | Tensor | Unusable)
        else:
            return False
        return True

    def _move(self, name: str, argument: Any) -> bool:
        """Execute an instruction that stores or moves an object. Return False if it neither stores nor moves one."""
        stack = self.stack
        if name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(argument)])
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._pop_to_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            return name in ("PROTO", "FRAME", "STOP")
        return True

    def _pop_to_mark(self) -> list[Any]:
        """Remove and return the values above the topmost mark, and remove the mark."""
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("the pickle has no mark for an instruction that needs a mark")
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def _dict(self, pairs: Any) -> dict[Any, Any]:
        """Return a dict of the given pairs, or a copy of the given dict.

        A pickle may pass the same list many times. The total number of copied items is therefore limited.
        """
        if isinstance(pairs, dict):
            pairs = pairs.items()
        elif isinstance(pairs, Placeholder | Global):  # an argument without items, such as a defaultdict's factory
            pairs = ()
        table = {}
        for key, value in pairs or ():
            self.copied += 1
            if self.copied > self.executed:
                raise ValueError("the pickle copies one list too often")
            table[_key(key)] = value
        return table

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """Return what a call of `function` stands for: a dict, a `Tensor`, an `Unusable` or a `Placeholder`."""
        if isinstance(function, Placeholder):  # a method of an object, or the result of another call
            return Placeholder(function.name)
        kind = _expect(function, Global).kind
        if kind == "dict":
            return self._dict(arguments[0] if arguments else ())
        if kind == "parameter":
            return _expect(arguments[0], Tensor | Unusable)
        if kind == "subclass":  # function, class, arguments and attributes of a tensor
            return self._call(arguments[0], _expect(arguments[2], tuple))
        if kind in ("tensor", "typed tensor"):
            return _tensor(arguments, typed=kind == "typed tensor")
        if kind == "unusable":
            return Unusable(function.value)
        if kind != "other":
            raise ValueError(f"a {kind} is called as a function")
        return Placeholder(function.name)

    def _persistent(self, identity: Any) -> Any:
        """Return the object with the persistent id `identity`.

        The id of a storage is `("storage", type, key, device, length[, view])`. In an old file, the class of a module
        has the id `("module", class, file, source)`.
        """
        word, kind, key, *rest = _expect(identity, tuple)
        if word == "module":
            return _expect(kind, Global)
        if word != "storage" or len(rest) < 2 or _expect(kind, Global).kind != "storage":
            raise ValueError("the persistent id of a storage has an unknown form")
        if any(part is not None for part in rest[2:]):
            raise ValueError("a storage is a view of another storage")
        length = rest[1]
        if type(length) is not int or not 0 <= length < 2**63:
            raise ValueError("the size of a storage is not a valid integer")
        storage = Storage(_expect(key, str), kind.value, length)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError("a storage has two sizes or types")
        return storage


def _tensor(arguments: tuple[Any, ...], *, typed: bool) -> Tensor | Unusable:
    """Return the tensor with the arguments of `_rebuild_tensor_v2`, or of `_rebuild_tensor_v3` if `typed` is true."""
    storage, offset, shape, stride = arguments[:4]
    numbers = (offset, *_expect(shape, tuple), *_expect(stride, tuple))
    if len(shape) != len(stride) or not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError("the shape and stride of a tensor are not integers, or differ in length")
    dtype = _expect(storage, Storage).dtype
    if typed:
        if (said := _expect(arguments[6], Global)).kind != "dtype":
            return Unusable(f"a tensor of {abbreviate(said.name)}")
        dtype = said.value
    metadata = arguments[7:] if typed else arguments[6:]
    if any(isinstance(entry, dict) and any(entry.values()) for entry in metadata):
        return Unusable("a conjugated or negated tensor")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    length = storage.length * storage.dtype.itemsize // dtype.itemsize
    if 0 not in shape and last >= length:
        raise ValueError(f"a tensor of shape {abbreviate(str(list(shape)))} is larger than its storage of {length}")
    return Tensor(storage, offset, shape, stride, dtype)


def _key(key: Any) -> Any:
    """Return `key` as a key of a dict. A tuple is replaced, because the hash of a deeply nested tuple can crash."""
    return key if isinstance(key, str | int | float | bytes | None | Placeholder) else Placeholder("key")


def _expect(value: Any, kind: Any) -> Any:
    """Return `value` if it is an instance of `kind`; raise `ValueError` otherwise."""
    if not isinstance(value, kind):
        raise ValueError(f"expected {getattr(kind, '__name__', kind)}, got {type(value).__name__}")
    return value
