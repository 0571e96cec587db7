"""Print what a bfloat16 training step costs on accelerators that are not there, as a row of a Markdown table.

    python -m benchmarks.accelerator_step v5e:2x4 jaxcnn [--model resnet50] [--batch 128] [--sync all|none]
    python -m benchmarks.accelerator_step h100:8 flax

The compilers run on the CPU (`targets.py` lists the packages), and no time is measured. Numbers are those of one
device. "moved" is the size of the operands and results of all operations of the compiled program, an upper bound on
the memory traffic; "accessed" is XLA's own estimate, which its GPU compiler does not give.
"""

import argparse
import collections
import re

from benchmarks.accelerator_step import targets

HEADER = "| target | step | batch norm over | temp GB | moved GB | accessed GB | Tflop | all-reduces | aliased MB |"
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "s64": 8, "u64": 8}
ARRAY = re.compile(rf"\b({'|'.join(BYTES)})\[([\d,]*)\]")
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z\-]+)\((.*)")
FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant")


def moved(text: str) -> int:
    """Return the bytes of the operands and results of the operations of a compiled program, outside of loops."""
    entry = re.search(r"^ENTRY [^\n]*\{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE)
    sizes: dict[str, int] = collections.defaultdict(int)
    total = 0
    for line in entry[1].splitlines() if entry else ():
        if match := INSTRUCTION.match(line):
            name, kind, operation, rest = match.groups()
            sizes[name] = sum(_bytes(*array) for array in ARRAY.findall(kind))
            if operation not in FREE and not operation.endswith("-done"):
                operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
                total += sizes[name] + sum(sizes[operand] for operand in operands)
    return total


def _bytes(dtype: str, shape: str) -> int:
    count = BYTES[dtype]
    for size in filter(None, shape.split(",")):
        count *= int(size)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator_step", description=__doc__)
    parser.add_argument("target", help="v5e:ROWSxCOLUMNS or h100:COUNT")
    parser.add_argument("library", choices=["jaxcnn", "flax"])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=128, help="images on each device")
    parser.add_argument("--sync", default="none", help="devices that share batch normalization statistics")
    parser.add_argument("--reduce-dtype", default="float32", help="dtype in which devices exchange these statistics")
    args = parser.parse_args()
    targets.prepare()

    from benchmarks.accelerator_step import programs
    from jaxcnn.measure.probes.collectives import collectives

    devices, options = targets.devices(args.target)
    if args.library == "flax":
        step, shapes = programs.flax(args.model, args.batch, devices)
    else:
        step, shapes = programs.ours(args.model, args.batch, devices, args.sync, args.reduce_dtype)
    compiled = step.lower(*shapes).compile(compiler_options=options)
    text, memory, cost = compiled.as_text(), compiled.memory_analysis(), compiled.cost_analysis() or {}
    messages = collections.Counter(message.kind for message in collectives(text))
    sums = [message.bytes for message in collectives(text) if message.kind == "all-reduce"]
    others = "".join(f", {count} {kind}" for kind, count in messages.items() if kind != "all-reduce")
    accessed = f"{cost['bytes accessed'] / 1e9:.2f}" if "bytes accessed" in cost else "-"
    cells = [
        args.target,
        f"{args.library} {args.model}, {args.batch}",
        args.sync,
        f"{memory.temp_size_in_bytes / 1e9:.2f}",
        f"{moved(text) / 1e9:.2f}",
        accessed,
        f"{cost['flops'] / 1e12:.2f}" if "flops" in cost else "-",
        f"{len(sums)} ({sum(sums) / 1e6:.1f} MB){others}",
        f"{memory.alias_size_in_bytes / 1e6:.1f} of {memory.output_size_in_bytes / 1e6:.1f}",
    ]
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
