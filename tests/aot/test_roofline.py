"""The bounds of a step's time, against numbers by hand."""

import pytest

from jaxcnn.aot import parse_target
from jaxcnn.aot.collectives import Transfer
from jaxcnn.aot.roofline import roofline

V5E = parse_target("v5e:2x4")


@pytest.mark.parametrize(
    ("flops", "moved", "transferred", "bound", "step"),
    [
        (197e12, 819e6, 0, "compute", 1.0),
        (197e9, 819e9, 0, "memory", 1.0),
        (197e9, 819e6, 100e9, "network", 1.75 + 8e-6),
    ],
)
def test_the_longest_time_is_the_bound(flops, moved, transferred, bound, step):
    transfers = [Transfer("all-reduce", 8, 1, transferred)] if transferred else []
    roof = roofline(V5E, "bfloat16", flops, moved, transfers)
    assert roof.bound == bound
    assert roof.step == pytest.approx(step)


def test_the_peak_depends_on_the_dtype():
    h100 = parse_target("h100")
    assert roofline(h100, "bfloat16", 989.4e12, 0, []).compute == pytest.approx(1.0)
    assert roofline(h100, "float32", 989.4e12, 0, []).compute == pytest.approx(2.0)  # tf32
    # A TPU rounds the factors of float32 products to bfloat16.
    assert roofline(V5E, "float32", 197e12, 0, []).compute == pytest.approx(1.0)


def test_a_cpu_has_no_known_bounds():
    assert roofline(parse_target("cpu"), "float32", 1e9, 1e9, []) is None
