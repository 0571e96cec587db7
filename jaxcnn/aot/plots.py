"""Plot reports of compiled steps: the roofline of each step, and the throughput by number of chips."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.aot.collectives import Transfer, seconds
from jaxcnn.aot.report import Report, with_times
from jaxcnn.aot.targets import Target, parse_target
from jaxcnn.hardware import look_up

COUNTS = tuple(2**power for power in range(9))
"""Numbers of chips on the horizontal axis of the scaling plot."""


def draw(reports: Sequence[Report], title: str, folder: Path) -> list[Path]:
    """Draw the reports that have times, write `roofline.png` and `scaling.png` to `folder`, and return the paths.

    Args:
      reports: the reports of compiled steps.
      title: title of the plots.
      folder: path of the folder to which the plots are written. The folder must exist.
    """
    known = [report for report in reports if report.step_seconds is not None]
    files = []
    for name, plot in PLOTS.items():
        file = folder / f"{name}.png"
        if known:
            _figure(known, title, file, plot)
            files.append(file)
        else:
            file.unlink(missing_ok=True)  # a plot of an earlier result would not match these reports
    return files


def _figure(reports: Sequence[Report], title: str, file: Path, plot: Callable[[Any, Sequence[Report]], None]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), layout="constrained", dpi=130)
    axes = figure.subplots()
    plot(axes, reports)
    axes.grid(alpha=0.3, which="both")
    handles, labels = axes.get_legend_handles_labels()
    # A long legend inside the axes would cover the lines.
    position: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(labels) > 5 else {}
    axes.legend(handles, labels, fontsize="small", **position)
    figure.suptitle(title)
    compilers = sorted({report.compiler for report in reports})
    axes.set_title(f"predicted, not measured · {', '.join(compilers)}", fontsize="small", color="0.35")
    figure.savefig(file)


def _roofline(axes: Any, reports: Sequence[Report]) -> None:
    """Plot a line with the attainable FLOP/s of each chip by arithmetic intensity, and each step as a point."""
    intensities = [report.intensity or 1.0 for report in reports]
    low, high = min(*intensities, 10.0) / 3, max(*intensities, 500.0) * 3
    x = np.geomspace(low, high, 200)
    colors: dict[str, str] = {}
    points: list[tuple[str, list[Report]]] = []  # (chip, reports whose points nearly coincide)
    for report in reports:
        target = parse_target(report.target)
        device, peak = target.device, look_up(target.kind, report.dtype)
        if device is None or device.bandwidth is None or peak is None:
            continue
        if target.chip not in colors:
            colors[target.chip] = f"C{len(colors)}"
            roof = np.minimum(peak.flops, x * device.bandwidth) / 1e12
            axes.plot(x, roof, color=colors[target.chip], lw=1.2, label=f"{target.chip} ({peak.arithmetic})")
        near = [group for chip, group in points if chip == target.chip and _is_near(report, group[0])]
        if near:
            near[0].append(report)
        else:
            points.append((target.chip, [report]))
    points.sort(key=lambda point: _reached(point[1][0]))
    for index, (chip, together) in enumerate(points):
        place = (together[0].intensity, _reached(together[0]))
        axes.plot(*place, "o", ms=5, color=colors[chip])
        text = f"{', '.join(report.target for report in together)}: {together[0].batch_per_chip}"
        # Neighboring points are close, so labels alternate between both sides of the lines.
        offset, side = ((-6, 5), "right") if index % 2 else ((6, -9), "left")
        style: dict[str, Any] = {"fontsize": "x-small", "color": colors[chip], "ha": side}
        axes.annotate(text, place, textcoords="offset points", xytext=offset, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set(xlabel="FLOPs per byte; points: target and batch per chip", ylabel="TFLOP/s of a chip")


def _is_near(one: Report, other: Report) -> bool:
    """Return whether the points of two steps would cover each other."""
    pairs = (one.intensity or 1.0, other.intensity or 1.0), (_reached(one), _reached(other))
    return one.batch_per_chip == other.batch_per_chip and all(abs(a - b) <= 0.05 * b for a, b in pairs)


def _reached(report: Report) -> float:
    """Return the TFLOP/s of each chip at the lower bound of the step time."""
    return (report.flops or 0.0) / (report.step_seconds or 1.0) / 1e12


def _scaling(axes: Any, reports: Sequence[Report]) -> None:
    """Plot the upper bound of the throughput by number of chips, with a constant batch size per chip."""
    from matplotlib.ticker import FixedLocator, NullLocator

    lines: dict[str, list[Report]] = {}
    for report in reports:
        chip = parse_target(report.target).chip
        lines.setdefault(f"{chip}, {report.batch_per_chip} images per chip", []).append(report)
    for index, (label, group) in enumerate(lines.items()):
        # The report with the most chips has collective operations. A report of one chip has none.
        widest, color = max(group, key=lambda report: report.chips), f"C{index}"
        target = parse_target(widest.target)
        points = [(count, scaled(widest, target, count)) for count in COUNTS]
        ideal = [(count, count * points[0][1]) for count in COUNTS]
        axes.plot(*zip(*points, strict=True), color=color, lw=1.2, label=label)
        axes.plot(*zip(*ideal, strict=True), "--", color=color, lw=0.8, alpha=0.5)
        for report in group:
            axes.plot([report.chips], [report.images_per_second], "o", ms=5, color=color)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="chips (points: compiled; dashed: without links)", ylabel="images per second, upper bound")
    axes.xaxis.set_major_locator(FixedLocator(COUNTS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")


def scaled(report: Report, target: Target, count: int) -> float:
    """Return the upper bound of the throughput, in images per second, with `count` chips and the same batch per chip.

    The FLOPs and bytes per chip do not change. Collective operations over all chips of the report become operations
    over all `count` chips. A report of one chip has no collective operations, so one all-reduce of the gradients is
    assumed.

    Args:
      report: report of a compiled step, with bounds of the step time.
      target: target for which the step was compiled.
      count: number of chips, a power of two.
    """
    whole = report.collectives
    if report.chips == 1 and report.memory is not None:
        whole = [Transfer("all-reduce", 1, 1, report.memory.parameters)]
    other = target.scaled(count)
    transfers = [dataclasses.replace(t, group=count if t.group == report.chips else min(t.group, count)) for t in whole]
    kept = tuple({**vars(t), "seconds": seconds(t, other)} for t in transfers if t.group > 1)
    batch = (report.batch_per_chip or 0) * count
    changed = dataclasses.replace(report, chips=count, batch_size=batch, transfers=kept)
    return with_times(changed, other).images_per_second or 0.0


PLOTS: dict[str, Callable[[Any, Sequence[Report]], None]] = {"roofline": _roofline, "scaling": _scaling}
