"""Print what a bfloat16 training step costs on accelerators that are not there, as a row of a Markdown table.

    python -m benchmarks.accelerator_step v5e:2x4 jaxcnn [--model resnet50] [--batch 128] [--sync all|none]
    python -m benchmarks.accelerator_step h100:8 flax

The compilers run on the CPU (`targets.py` lists the packages), and no time is measured. Numbers are those of one
device. Traffic is what the instructions of the compiled program read from and write to memory, counted by
`jaxcnn.aot.hlo`: an instruction that slices an operand reads the slice.
"""

import argparse
import collections

from benchmarks.accelerator_step import targets

HEADER = """\
| target | step | batch norm over | temp GB | peak GB | traffic GB | all-reduces | aliased arrays |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"""


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
    from jaxcnn.aot import hlo
    from jaxcnn.measure.probes.collectives import collectives

    devices, options = targets.devices(args.target)
    if args.library == "flax":
        step, shapes = programs.flax(args.model, args.batch, devices)
    else:
        step, shapes = programs.ours(args.model, args.batch, devices, args.sync, args.reduce_dtype)
    compiled = step.lower(*shapes).compile(compiler_options=options)
    text, memory = compiled.as_text(), compiled.memory_analysis()
    program = hlo.parse(text, spaces=hlo.TPU_MEMORY if devices[0].platform == "tpu" else None)
    messages = collections.Counter(message.kind for message in collectives(text))
    sums = [message.bytes for message in collectives(text) if message.kind == "all-reduce"]
    others = "".join(f", {count} {kind}" for kind, count in messages.items() if kind != "all-reduce")
    cells = [
        args.target,
        f"{args.library} {args.model}, {args.batch}",
        args.sync,
        f"{memory.temp_size_in_bytes / 1e9:.2f}",
        f"{memory.peak_memory_in_bytes / 1e9:.2f}",
        f"{program.bytes_accessed() / 1e9:.2f}",
        f"{len(sums)} ({sum(sums) / 1e6:.1f} MB){others}",
        str(text.split("\n", 1)[0].count("may-alias")),
    ]
    print(HEADER)
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
