"""Reports of a real compilation for the CPU, against what the compiled program says of itself."""

import dataclasses
import json

import jax
import pytest

from jaxcnn.analysis import summarize
from jaxcnn.aot import Images, parse_target
from jaxcnn.aot import report as reports
from jaxcnn.aot.program import compile_plan, lower, plan_of
from jaxcnn.aot.report import Report
from jaxcnn.aot.targets import topology_devices
from jaxcnn.train import Config, OptimizerConfig

CPU = parse_target("cpu")
CONFIG = Config(batch_size=16, optimizer=OptimizerConfig("adam", 1e-3), ema_decay=0.99)


def compiled(config, devices=None):
    plan = plan_of(config, Images.of_model(config), devices or topology_devices(CPU))
    return compile_plan(plan)


@pytest.fixture(scope="module")
def program():
    return compiled(CONFIG)


def test_the_parts_of_the_memory_are_those_of_the_compiled_program(program):
    memory = reports.measure(CPU, program).memory
    stats, state = program.compiled.memory_analysis(), program.plan.template
    parameters = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state.params, state.batch_stats)))
    assert memory.parameters == parameters == memory.averages
    assert memory.optimizer == pytest.approx(2 * parameters, rel=0.01)  # Adam's two moments
    assert memory.batch == 16 * (28 * 28 + 4)
    assert memory.temporaries == stats.temp_size_in_bytes
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    assert memory.total == held + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
    parts = ("parameters", "optimizer", "averages", "batch", "temporaries", "code", "other")
    assert sum(getattr(memory, part) for part in parts) == memory.total
    # The state is donated: results other than the state are a few sums.
    assert 0 <= memory.other < 1000


def test_the_operations_are_those_of_the_analysis(program):
    report = reports.measure(CPU, program)
    macs = summarize(program.plan.model, (28, 28, 1), train=True).macs
    assert report.model_flops == 6 * macs * 16
    # The first layer has no input gradient, and taps on padding are not multiplied.
    assert 0.8 * report.model_flops < report.flops < report.model_flops
    assert report.intensity == report.flops / report.bytes_accessed


def test_a_cpu_has_costs_and_no_times(program):
    report = reports.measure(CPU, program)
    assert report.fits
    assert report.bytes_accessed > report.memory.temporaries
    assert (report.step_seconds, report.bound, report.images_per_second) == (None, None, None)
    assert (report.parallel, report.chips, report.padding, report.transfers) == ("shard_map", 1, 0.0, ())
    assert report.compile_cpu_seconds > 0


def test_micro_batches_count_as_often_as_they_run():
    whole, parts = (compiled(dataclasses.replace(CONFIG, accumulate=count)) for count in (1, 4))
    in_parts = reports.measure(CPU, parts)
    assert in_parts.flops == reports.measure(CPU, whole).flops
    # XLA counts the body of the loop once.
    assert in_parts.bytes_accessed > 1.5 * in_parts.xla_bytes_accessed


def test_loops_over_blocks_have_the_operations_of_all_rounds():
    config = dataclasses.replace(CONFIG, model="resnet20_cifar", model_options=("stage_sizes=(3,)", "width=4"))
    one = compiled(config)
    loops = compiled(dataclasses.replace(config, model_options=(*config.model_options, "scan_blocks=True")))
    tpu = parse_target("v5e:2x2")  # for which XLA's count is used, unless there are loops
    assert reports.measure(tpu, loops).flops == reports.measure(CPU, one).flops != reports.measure(tpu, one).flops


def test_the_cost_is_that_of_one_step_of_a_call():
    one, four = (compiled(dataclasses.replace(CONFIG, steps_per_dispatch=count)) for count in (1, 4))
    of_one, of_four = reports.measure(CPU, one), reports.measure(CPU, four)
    assert of_four.flops == of_one.flops
    assert of_four.bytes_accessed == pytest.approx(of_one.bytes_accessed, rel=0.3)
    assert of_four.memory.batch == 4 * of_one.memory.batch


def test_gradients_are_exchanged_between_devices():
    devices = jax.local_devices(backend="cpu")[:4]
    program = compiled(dataclasses.replace(CONFIG, ema_decay=0.0), devices)
    target = dataclasses.replace(parse_target("v5e:2x2"), platform="cpu")
    report = reports.measure(target, program)
    parameters = report.memory.parameters
    assert {entry["kind"] for entry in report.transfers} == {"all-reduce"}
    assert sum(entry["bytes"] for entry in report.transfers) == pytest.approx(parameters, rel=0.01)
    assert report.batch_per_chip == 4
    assert report.network_seconds == sum(entry["seconds"] for entry in report.transfers) > 0
    assert report.step_seconds == max(report.compute_seconds, report.memory_seconds, report.network_seconds)
    assert report.images_per_second == pytest.approx(16 / report.step_seconds)
    assert report.mfu == pytest.approx(report.model_flops / report.step_seconds / 197e12)


def test_a_report_is_a_json_value(program):
    report = reports.measure(CPU, program)
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@pytest.mark.parametrize(
    ("message", "missing"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: the total memory required (64.00G) exceeds available HBM (15.75G).",
            48.25,
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 31.50G of 15.75G hbm.", 15.75),
        ("RESOURCE_EXHAUSTED: out of memory", None),
    ],
)
def test_the_compiler_says_by_how_much_a_step_does_not_fit(program, message, missing):
    report = reports.out_of_memory(parse_target("v5e:1x1"), program.plan, message)
    assert report.fits is False
    assert report.missing_bytes == (None if missing is None else round(missing * 2**30))
    if report.memory is not None:
        assert report.memory.total == report.memory.available + report.missing_bytes
        assert report.memory.temporaries > 0.99 * report.memory.total


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("parallel", ["shard_map", "jit"])
def test_programs_for_accelerators_call_nothing_of_ours(platform, parallel):
    config = Config(model="resnet20_cifar", batch_size=16, dtype="bfloat16", parallel=parallel)
    devices = jax.local_devices(backend="cpu")[:2]
    text = lower(plan_of(config, Images.of_model(config), devices), platforms=(platform,)).as_text()
    assert "stablehlo.convolution" in text
    assert "jaxcnn" not in text
    assert "_ffi" not in text
