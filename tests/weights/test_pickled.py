"""A pickle inside a PyTorch file can name tensors and nothing else; whatever else it holds, nothing is executed."""

import codecs
import functools
import importlib
import operator
import os
import pickle
import subprocess
from pathlib import Path

import pytest

from jaxcnn.errors import UsageError
from jaxcnn.weights import _pickled


class Call:
    """What unpickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class WithState:
    """What unpickles as a call, and then sets attributes."""

    def __reduce__(self):
        return functools.partial, (print,), {"func": os.system}


def gadgets(marker: Path) -> dict[str, bytes]:
    """Pickles, each of which makes the file `marker` when it is unpickled in the ordinary way, or tries to."""
    command, code = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    calls = {
        "system": Call(os.system, command),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "popen": Call(subprocess.Popen, ["touch", str(marker)]),
        "getattr": Call(getattr, Call(importlib.import_module, "os"), "system"),
        "import": Call(importlib.import_module, "os"),
        "partial": Call(functools.partial(os.system, command)),
        "partial with state": WithState(),
        "codecs": Call(codecs.encode, "abc", "rot13"),
        "methodcaller": Call(operator.methodcaller("system", command), os),
        "open": Call(open, str(marker), "w"),
        "map": Call(list, Call(map, eval, [code])),
        "pickle in a pickle": Call(pickle.loads, pickle.dumps(Call(os.system, command))),
        "class": Call(type, "Sub", (dict,), {}),
    }
    # The module `os` itself cannot be pickled; its place does not matter, as the pickle is refused before.
    calls["methodcaller"] = Call(operator.methodcaller("system", command), Call(importlib.import_module, "os"))
    nested = {"layer.weight": {"deep": [(1, {"deeper": calls["system"]})]}}
    made = {name: pickle.dumps(call, protocol=2) for name, call in {**calls, "nested": nested}.items()}
    made |= {
        f"{name}, protocol {p}": pickle.dumps(calls[name], protocol=p) for name in ("system", "eval") for p in (0, 4)
    }
    path = str(marker).encode()
    made |= {
        "dotted name": b"\x80\x04\x8c\x0ctorch._utils\x8c\x20_rebuild_tensor_v2.__globals__.get\x93.",
        "torch's own loader": b"ctorch.storage\n_load_from_bytes\n(C\x01.tR.",
        "numpy": b"cnumpy\nload\n(V" + path + b"\nI00\nI01\ntR.",
        "instance": b"(S'touch " + path + b"'\nios\nsystem\n.",
        "object": b"(cos\nsystem\nS'touch " + path + b"'\no.",
        "new object": b"\x80\x02cbuiltins\nobject\n)\x81.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent text": b"Pos.system\n.",
        "a storage called": b"\x80\x02ctorch\nFloatStorage\n)R.",
        "text called": b"\x80\x02U\x02os)R.",
        "attributes on text": b"\x80\x02U\x02os}U\x01aU\x01bsb.",
    }
    return made


GADGETS = gadgets(Path("marker"))


def test_the_gadgets_work_where_pickle_is_trusted(tmp_path):
    # Or what follows would show nothing.
    for name in ("system", "eval", "exec", "nested", "pickle in a pickle", "system, protocol 0", "instance", "object"):
        marker = tmp_path / name.replace(" ", "-")
        pickle.loads(gadgets(marker)[name])
        assert marker.exists(), name


@pytest.mark.parametrize("name", GADGETS)
def test_a_pickle_that_asks_for_anything_else_is_refused_and_not_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        _pickled.read(GADGETS[name])
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_refused_global_is_named():
    with pytest.raises(UsageError, match=r"asks for posix\.system, .* Save `model\.state_dict\(\)` alone"):
        _pickled.read(GADGETS["system"])


STORAGE = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x0atQ"  # ten numbers under the key "0"


def tensor(offset: bytes, shape: bytes, stride: bytes) -> bytes:
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + offset + shape + stride + b"\x89}tR."


def test_a_tensor_is_a_view_of_a_storage():
    read = _pickled.read(tensor(b"K\x04", b"K\x02K\x03\x86", b"K\x03K\x01\x86"))
    assert (read.offset, read.shape, read.stride, read.storage.length) == (4, (2, 3), (3, 1), 10)


def test_a_high_memo_index_takes_no_memory_for_lower_ones():
    # For this CPython's own reader would make room for four thousand million objects.
    assert _pickled.read(b"\x80\x02}r\xff\xff\xff\x7f.") == {}


HUGE = b"\x8a\x09" + (2**64).to_bytes(9, "little")
ABSURD = {
    "behind the end": tensor(b"K\x05", b"K\x02K\x03\x86", b"K\x03K\x01\x86"),
    "a stride that leads out": tensor(b"K\x00", b"K\x02K\x03\x86", b"K\x09K\x01\x86"),
    "before the start": tensor(b"J\xff\xff\xff\xff", b"K\x02\x85", b"K\x01\x85"),
    "a backward stride": tensor(b"K\x09", b"K\x02\x85", b"J\xff\xff\xff\xff\x85"),
    "more axes than strides": tensor(b"K\x00", b"K\x02K\x03\x86", b"K\x01\x85"),
    "not a number": tensor(b"K\x00", b"G?\xf0\x00\x00\x00\x00\x00\x00\x85", b"K\x01\x85"),
    "a number too large": tensor(b"K\x00", HUGE + b"\x85", b"K\x00\x85"),
    "true as a size": tensor(b"K\x00", b"\x88\x85", b"K\x01\x85"),
    "no storage": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00)) }tR.",
    "too few arguments": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "a view of a storage": b"\x80\x02(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x0a(U\x01vK\x00K\x01ttQ.",
    # Python's own hash of 200,000 nested tuples already overflows a stack of 8 MB.
    "a key nested 400,000 deep": b"\x80\x02})" + b"\x85" * 400_000 + b"K\x01s.",
    "a value nested 400,000 deep": b"\x80\x02})" + b"\x85" * 400_000 + b"R.",
    "an empty stack": b"\x80\x02.",
    "two results": b"\x80\x02K\x01K\x02.",
    "no mark": b"\x80\x02K\x01t.",
    "a memory that was not written": b"\x80\x02h\x07.",
    "text that is longer than the file": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "text that is not UTF-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "no end": b"\x80\x02K\x01",
    "nothing": b"",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "an unknown instruction": b"\x80\x02\xff.",
}


@pytest.mark.parametrize("name", ABSURD)
def test_an_invalid_pickle_is_refused_in_one_line(name):
    with pytest.raises(UsageError) as error:
        _pickled.read(ABSURD[name])
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)
