"""Targets: their names, shapes and chips, and one line for every mistake."""

import pytest

from jaxcnn.aot import parse_target, parse_targets, targets
from jaxcnn.aot.gpu_configs import GPU_CONFIGS
from jaxcnn.errors import UsageError
from jaxcnn.hardware import DEVICES, find_device


@pytest.mark.parametrize(
    ("name", "platform", "kind", "count"),
    [
        ("v4:2x2x1", "tpu", "TPU v4", 4),
        ("v5e:2x4", "tpu", "TPU v5 lite", 8),
        ("v5e:16x16", "tpu", "TPU v5 lite", 256),
        ("v5p:2x2x2", "tpu", "TPU v5", 8),
        ("v6e:1x1", "tpu", "TPU v6 lite", 1),
        ("a100", "cuda", "NVIDIA A100-SXM4-80GB", 1),
        ("h100:8", "cuda", "NVIDIA H100 80GB HBM3", 8),
        ("h200:16", "cuda", "NVIDIA H200 141GB HBM3e", 16),
        ("b200", "cuda", "NVIDIA B200", 1),
        ("cpu", "cpu", "cpu", 1),
    ],
)
def test_a_name_is_a_kind_and_a_number_of_chips(name, platform, kind, count):
    target = parse_target(name)
    assert (target.platform, target.kind, target.count) == (platform, kind, count)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v5x:2x4", "unknown target 'v5x'; did you mean 'v5p'|unknown target 'v5x'; did you mean 'v5e'"),
        ("h10", "unknown target 'h10'; did you mean 'h100'?"),
        ("v5e", "has no slice shape. Add a shape, as in v5e:2x4"),
        ("v5e:8", "needs a slice shape of 2 axes"),
        ("v5p:2x4", "needs a slice shape of 3 axes. Write the shape as in v5p:2x2x2"),
        ("v5e:2x3", "has an invalid axis length. Use 1 or an even number for each axis"),
        ("v5e:0x4", "has an invalid axis length. Use 1 or an even number for each axis"),
        ("v5e:16x32", "512 chips. A v5e slice has at most 256"),
        ("h100:0", "no valid number of GPUs. Give a number, as in h100:8"),
        ("h100:x", "no valid number of GPUs"),
        ("h100:12", "does not use all 8 GPUs of each node. Use h100:16"),
        ("h100:4096", "Use at most 1,024"),
        ("cpu:2", "Use cpu."),
    ],
)
def test_a_wrong_name_is_one_line_that_says_what_to_do(name, says):
    with pytest.raises(UsageError) as raised:
        parse_target(name)
    assert any(part in str(raised.value) for part in says.split("|"))
    assert "\n" not in str(raised.value)


def test_names_are_separated_by_commas():
    assert [target.name for target in parse_targets("v5e:2x4, h100:8,cpu")] == ["v5e:2x4", "h100:8", "cpu"]
    with pytest.raises(UsageError, match="no target given"):
        parse_targets(" ,")


def test_a_slice_grows_in_the_most_compact_shape():
    def names(name):
        return [parse_target(name).scaled(2**power).name for power in range(9)]

    two_axes = ["1x1", "1x2", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"]
    three_axes = ["1x1x1", "1x1x2", "1x2x2", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"]
    assert names("v5e:2x4") == [f"v5e:{shape}" for shape in two_axes]
    assert names("v5p:2x2x2") == [f"v5p:{shape}" for shape in three_axes]
    assert names("h100:8")[:5] == ["h100", "h100:2", "h100:4", "h100:8", "h100:16"]


def test_every_chip_has_memory_bandwidth_links_and_sources():
    for kind in (*targets.TPUS.values(), *targets.GPUS.values()):
        device = find_device(kind)
        assert device.memory > 10**10
        assert device.bandwidth > 5e11
        assert device.links.bandwidth > 1e10
        assert device.links.source
    assert all(device.source for device in DEVICES.values())


def test_programs_can_use_the_part_of_a_gpu_that_jax_reserves(monkeypatch):
    monkeypatch.delenv(targets.FRACTION_VARIABLE, raising=False)
    whole = find_device("NVIDIA H100 80GB HBM3").memory
    assert parse_target("h100").memory == int(0.75 * whole)
    monkeypatch.setenv(targets.FRACTION_VARIABLE, "0.9")
    assert parse_target("h100").memory == int(0.9 * whole)
    assert parse_target("v5e:1x1").memory == int(15.75 * 2**30)
    assert parse_target("cpu").memory is None
    monkeypatch.setenv(targets.FRACTION_VARIABLE, "most")
    with pytest.raises(UsageError, match="is not a number: 'most'"):
        _ = parse_target("h100").memory


@pytest.mark.parametrize("name", GPU_CONFIGS)
def test_the_text_of_a_gpu_has_the_numbers_of_the_hardware_table(name):
    text, device = GPU_CONFIGS[name].text(), find_device(GPU_CONFIGS[name].kind)
    assert f"device_memory_size: {device.memory}\n" in text
    assert f"memory_bandwidth: {round(device.bandwidth)}\n" in text
    assert text.count("{") == text.count("}")


def test_a_missing_compiler_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the TPU compiler. Run: pip install 'libtpu==[\d.]+\*?'"):
        targets.check_installed(parse_target("v5e:2x4"))
    with pytest.raises(UsageError, match=r"pip install jax-cuda13-plugin==[\d.]+ jax-cuda13-pjrt==[\d.]+ nvidia"):
        targets.check_installed(parse_target("h100"))
    targets.check_installed(parse_target("cpu"))


def test_a_missing_assembler_is_named(monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: "here")
    monkeypatch.setattr(targets, "has_ptxas", lambda: False)
    with pytest.raises(UsageError, match=r"ptxas\. Run: pip install nvidia-cuda-nvcc"):
        targets.check_installed(parse_target("h100"))


def test_a_tpu_compiler_of_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: "here")
    versions = {"libtpu": "0.0.1", "jax": "1.2"}
    monkeypatch.setattr(targets.metadata, "version", versions.__getitem__)
    with pytest.raises(UsageError, match=r"libtpu 0.0.1 does not match jax 1.2. Run: pip install 'libtpu=="):
        targets.check_installed(parse_target("v5e:2x4"))


def test_a_compiling_process_gets_no_option_that_only_the_cpu_compiler_knows(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=x {targets.XLA_OPTIONS[0]}")
    assert targets.environment(parse_target("v5e:2x4"))["XLA_FLAGS"] == "--xla_dump_to=x"
    assert targets.environment(parse_target("v5e:2x4"))["TPU_SKIP_MDS_QUERY"] == "1"
    assert "TPU_SKIP_MDS_QUERY" not in targets.environment(parse_target("h100"))
    assert "XLA_FLAGS" not in targets.environment(parse_target("cpu"))
