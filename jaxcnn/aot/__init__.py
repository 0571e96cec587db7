"""Compile a training step for TPUs and GPUs that this machine lacks, and report its cost. The step does not run.

from jaxcnn.aot import compile_for
from jaxcnn.train import Config

report = compile_for("v5e:2x4", Config(model="resnet50", batch_size=1024, dtype="bfloat16"))
print(report.fits, report.bound, report.images_per_second)
"""

from jaxcnn.aot.compiling import compile_all, compile_for
from jaxcnn.aot.images import Images
from jaxcnn.aot.report import Memory, Report
from jaxcnn.aot.targets import Target, parse_target, parse_targets

__all__ = [
    "Images",
    "Memory",
    "Report",
    "Target",
    "compile_all",
    "compile_for",
    "parse_target",
    "parse_targets",
]
