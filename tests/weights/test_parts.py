"""The part of a file that fits a model is found by its names, and several that fit are a choice."""

import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.weights._parts import find_part
from jaxcnn.weights._stored import Stored

NAMES = ("conv.weight", "conv.bias", "fc.weight", "fc.bias")


def file_of(*prefixes: str, extra: tuple[str, ...] = ()) -> dict[str, Stored]:
    names = [*extra, *(prefix + name for prefix in prefixes for name in NAMES)]
    return {name: Stored((), np.dtype("f4"), lambda: np.zeros((), "f4")) for name in names}


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "_orig_mod.module.",
        "model.",
        "backbone.",
        "encoder.",
        "net.",
        "student.module.backbone.",
        "state_dict.module.model._orig_mod.",
        "my_own.wrapper.0.",
        "0.",
    ],
)
def test_any_prefix_is_found_and_reported(prefix):
    part = find_part(file_of(prefix, extra=("optimizer.state.0.step", "epoch")), [set(NAMES)])
    assert part.name == prefix.removesuffix(".")
    assert part.others == ()
    assert set(NAMES) <= set(part.arrays)


@pytest.mark.parametrize(
    ("network", "copy"),
    [
        ("state_dict.", "state_dict_ema."),
        ("model.", "model_ema.module."),
        ("module.encoder_q.", "module.encoder_k."),
        ("student.backbone.", "teacher.backbone."),
        ("online.", "target."),
        ("net.", "momentum_net."),
        ("state_dict.", "best."),
    ],
)
def test_the_network_itself_is_read_unless_its_copy_is_asked_for(network, copy):
    stored = file_of(copy, network)
    part = find_part(stored, [set(NAMES)])
    assert (part.name, part.others) == (network.removesuffix("."), (copy.removesuffix("."),))
    assert find_part(stored, [set(NAMES)], copy.partition(".")[0]).arrays.keys() == set(NAMES)


def test_two_parts_of_equal_right_are_a_choice():
    with pytest.raises(UsageError, match=r"several parts of the file fit: 'first', 'second'.*--part"):
        find_part(file_of("first.", "second."), [set(NAMES)])
    assert find_part(file_of("first.", "second."), [set(NAMES)], "second").name == "second"


def test_an_unknown_part_is_one_line_with_the_closest():
    with pytest.raises(UsageError, match="model_ema"):
        find_part(file_of("model.", "model_ema."), [set(NAMES)], "model_emma")


def test_the_part_with_the_most_names_counts():
    stored = file_of("teacher.") | file_of("", extra=("student.conv.weight",))
    del stored["fc.bias"]
    assert find_part(stored, [set(NAMES)]).name == "teacher"


def test_another_librarys_names_are_found_by_their_own_scheme():
    assert find_part(file_of("model."), [{"other.kernel"}, set(NAMES)]).name == "model"


def test_a_file_without_any_of_the_names_is_left_as_it_is():
    part = find_part(file_of("model."), [{"other.kernel"}])
    assert (part.name, len(part.arrays)) == ("", 4)
