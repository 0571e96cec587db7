"""Pictures of reports, and the throughput that they extrapolate."""

import dataclasses

import pytest

from jaxcnn.aot import Report, parse_target
from jaxcnn.aot.plots import draw, scaled
from jaxcnn.aot.report import Memory, with_times


def report(name, *, transfers=(), batch=128):
    target = parse_target(name)
    memory = Memory(100_000_000, 0, 0, 0, 0, 0, 0, 100_000_000, target.device.memory)
    costs = {"flops": 3e12, "model_flops": 3.1e12, "bytes_accessed": 3.4e10, "intensity": 3e12 / 3.4e10}
    like = {"model": "m", "dtype": "bfloat16", "parallel": "shard_map", "image_shape": (224, 224, 3)}
    made = Report(
        target.name,
        target.kind,
        target.count,
        batch_size=batch * target.count,
        transfers=transfers,
        memory=memory,
        fits=True,
        compiler="none",
        **costs,
        **like,
    )
    return with_times(made, target)


def all_reduce(group, size):
    return ({"kind": "all-reduce", "group": group, "count": 1, "bytes": size, "seconds": None},)


def test_two_pictures_are_drawn(tmp_path):
    found = [report("v5e:2x4", transfers=all_reduce(8, 1e8)), report("h100"), report("v5e:1x1")]
    files = draw([*found, dataclasses.replace(report("v6e:1x1"), step_seconds=None)], "title", tmp_path)
    assert [file.name for file in files] == ["roofline.png", "scaling.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_a_picture_of_other_reports_is_removed(tmp_path):
    (tmp_path / "scaling.png").write_bytes(b"old")
    assert draw([dataclasses.replace(report("h100"), step_seconds=None)], "title", tmp_path) == []
    assert not (tmp_path / "scaling.png").exists()


def test_throughput_scales_until_the_links_are_the_bound():
    target = parse_target("v5e:2x4")
    light, heavy = (report("v5e:2x4", transfers=all_reduce(8, size)) for size in (1e8, 1e12))
    assert scaled(light, target, 8) == pytest.approx(light.images_per_second)
    assert scaled(light, target, 256) == pytest.approx(32 * light.images_per_second)
    assert scaled(light, target, 1) == pytest.approx(light.images_per_second / 8)
    # 2 * 255/256 TB over 200 GB/s.
    assert scaled(heavy, target, 256) == pytest.approx(128 * 256 / (2 * 255 / 256 * 1e12 / 200e9), rel=0.01)


def test_one_chip_is_extrapolated_with_an_all_reduce_of_its_gradients():
    found, target = report("h100"), parse_target("h100")
    slow = dataclasses.replace(found, memory=dataclasses.replace(found.memory, parameters=10**12))
    assert scaled(found, target, 1) == pytest.approx(found.images_per_second)
    assert scaled(slow, target, 8) == pytest.approx(128 * 8 / (1.75 * 1e12 / 450e9), rel=0.01)


def test_groups_of_batch_normalization_keep_their_size():
    target = parse_target("v5e:2x4")
    groups = report("v5e:2x4", transfers=all_reduce(4, 1e12))
    assert scaled(groups, target, 2) == pytest.approx(128 * 2 / (1e12 / 50e9), rel=0.01)
    assert scaled(groups, target, 256) == pytest.approx(128 * 256 / (1.5e12 / 200e9), rel=0.01)
