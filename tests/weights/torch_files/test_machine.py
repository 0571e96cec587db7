"""Whatever a pickle inside a PyTorch file asks for, nothing is executed, and little memory is taken."""

import argparse
import codecs
import collections
import datetime
import fractions
import functools
import importlib
import operator
import os
import pathlib
import pickle
import signal
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.weights import torch_files
from jaxcnn.weights.torch_files import machine


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
        "new object with keywords": b"\x80\x04\x8c\x05posix\x8c\x06system\x93)}\x92.",
        "extension of two bytes": b"\x80\x02\x83\x01\x01.",
        "a class as persistent id": b"\x80\x02(U\x06modulecos\nsystem\nU\x01aU\x01btQ(U\x04trueq\x01tR.",
        "a chain of attributes": b"cbuiltins\ngetattr\n(cnumpy\nf2py\nVos\ntR(Vtrue\ntR.",
        "a method of a module": b"ccommands\ngetoutput\n(Vtrue\ntR.",
        "objects in an array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.",
        "a loader in NumPy": b"cnumpy.lib.npyio\nload\n(V" + path + b"\ntR.",
        "a loader of torch": b"ctorch.serialization\nload\n(V" + path + b"\ntR.",
        "code from a hub": b"ctorch.hub\nload\n(Vowner/name\nVmodel\ntR.",
        "a list of itself": b"]p0\ng0\na.",
        "a dict of itself": b"}p0\nVa\ng0\ns.",
        "a thousand million laughs": b"(" + b"t0(" * 9 + b"g0\n" + b"g0\n" * 9 + b"t.",
    }
    return made


GADGETS = gadgets(Path("marker"))


def test_the_gadgets_work_where_pickle_is_trusted(tmp_path):
    # Or what follows would show nothing.
    for name in ("system", "eval", "exec", "nested", "pickle in a pickle", "system, protocol 0", "instance", "object"):
        marker = tmp_path / name.replace(" ", "-")
        pickle.loads(gadgets(marker)[name])
        assert marker.exists(), name


def archive(path: Path, data: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """Write a file of `torch.save` with this pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        for key, content in (storages or {}).items():
            file.writestr(f"archive/data/{key}", content)
    return path


@pytest.mark.parametrize("name", GADGETS)
def test_a_file_that_asks_for_more_than_tensors_is_one_line_and_nothing_runs(name, tmp_path, monkeypatch):
    path = archive(tmp_path / "hostile.pth", GADGETS[name])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        torch_files.read(path)
    reason = str(error.value).replace(str(path), "")
    assert len(reason) < 200
    assert "\n" not in reason
    assert [file.name for file in tmp_path.iterdir()] == ["hostile.pth"]


def test_at_least_forty_attacks_are_tried():
    assert len(GADGETS) >= 40


@pytest.mark.parametrize("name", ["system", "eval", "open", "popen", "system, protocol 4", "instance"])
def test_what_starts_programs_or_opens_files_is_named(name):
    with pytest.raises(UsageError, match=r"asks for \w+\.\w+, which weights do not need\. Do not use this file"):
        machine.read(GADGETS[name])


STORAGE = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x0atQ"  # ten numbers under the key "0"


def tensor(offset: bytes, shape: bytes, stride: bytes) -> bytes:
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + offset + shape + stride + b"\x89}tR."


TENSOR = tensor(b"K\x04", b"K\x02K\x03\x86", b"K\x03K\x01\x86")


def test_a_tensor_is_a_view_of_a_storage():
    read = machine.read(TENSOR).value
    assert (read.offset, read.shape, read.stride, read.storage.length) == (4, (2, 3), (3, 1), 10)


OBJECTS = {
    "arguments": argparse.Namespace(lr=0.1, device={"cpu"}),
    "a number of NumPy": np.float64(71.5),
    "an array of NumPy": np.arange(3),
    "a dtype of NumPy": np.dtype("float32"),
    "a path": pathlib.PurePosixPath("/data"),
    "a date": datetime.date(2020, 1, 2),
    "a time": datetime.datetime(2020, 1, 2, 3, 4, tzinfo=datetime.UTC),
    "a set": {1, 2},
    "a frozen set": frozenset("ab"),
    "a default dict": collections.defaultdict(list, {"a": [1]}),
    "a counter": collections.Counter("aab"),
    "a queue": collections.deque([1, 2], maxlen=3),
    "an enum": signal.Signals.SIGTERM,
    "a complex number": 1 + 2j,
    "a slice": slice(1, 2),
    "a fraction": fractions.Fraction(1, 3),
    "bytes": b"abc",
    "bytes that change": bytearray(b"abc"),
    "a tuple as key": {(1, 2): "a", None: 1, True: 2},
    "a partial function": functools.partial(int, base=2),
    "an object of one's own": Call(Path, "a"),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", OBJECTS)
def test_other_objects_of_a_checkpoint_are_skipped(name, protocol):
    value = machine.read(pickle.dumps({"before": 1, "object": OBJECTS[name], "after": [2]}, protocol=protocol)).value
    assert (value["before"], value["after"]) == (1, [2])
    plain = int | float | str | bytes | bytearray | dict | machine.Placeholder
    assert isinstance(value["object"], plain)


def test_tensors_beside_and_inside_other_objects_are_found(tmp_path):
    # {"a": tensor, "b": Namespace with {"c": tensor}}, the tensors being one object
    inside = b"c__main__\nSettings\n)R}U\x01ch\x00sb"
    data = b"\x80\x02}(U\x01a" + TENSOR[2:-1] + b"q\x00U\x01b" + inside + b"u."
    found = torch_files.read(archive(tmp_path / "file", data, {"0": np.arange(10, dtype="f4").tobytes()}))
    assert list(found) == ["a", "b.c"]
    np.testing.assert_array_equal(found["b.c"].read(), np.arange(4, 10).reshape(2, 3))


def test_a_list_is_not_copied_without_end():
    pairs = b"(" + b"(U\x01aK\x01t" * 100 + b"lq\x00"
    calls = b"ccollections\nOrderedDict\n(h\x00tR0" * 2000
    with pytest.raises(UsageError, match="copies one list too often"):
        machine.read(b"\x80\x02" + pairs + calls + b".")


def test_tensors_under_deeply_nested_and_circular_keys_end_in_one_line(tmp_path):
    deep = b"\x80\x02" + b"}U\x01a" * 200_000 + b"}" + b"s" * 200_000 + b"."
    with pytest.raises(UsageError, match="contains no state dict"):
        torch_files.read(archive(tmp_path / "deep", deep))


def test_a_high_memo_index_takes_no_memory_for_lower_ones():
    # For this CPython's own reader would make room for four thousand million objects.
    assert machine.read(b"\x80\x02}r\xff\xff\xff\x7f.").value == {}


def test_a_key_nested_deeply_is_not_hashed():
    # Python's own hash of 200,000 nested tuples already overflows a stack of 8 MB.
    assert len(machine.read(b"\x80\x02})" + b"\x85" * 400_000 + b"K\x01s.").value) == 1


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
    "a storage of two sizes": b"\x80\x02(" + STORAGE + STORAGE.replace(b"K\x0a", b"K\x0b") + b"t.",
    "a storage that is an option": b"\x80\x02(U\x07storagecargparse\nNamespace\nU\x010U\x03cpuK\x0atQ.",
    "a view of a storage": b"\x80\x02(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x0a(U\x01vK\x00K\x01ttQ.",
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
        machine.read(ABSURD[name])
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)
