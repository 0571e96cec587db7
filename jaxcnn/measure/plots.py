"""Pictures of rows: throughput and memory by batch, latency against throughput, scaling by devices."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]

# What tells one line of a plot from another; only what differs between the rows is in the legend.
_LINES = ("model", "image_size", "mode", "dtype", "parallel", "devices", "steps_per_dispatch")


def draw(rows: Rows, title: str, folder: Path) -> list[Path]:
    """Writes the pictures that the rows have something for, as PNG; returns their files."""
    measured = [row for row in rows if row.get("images_per_second")]
    drawn = []
    for name, (has_something, plot) in PLOTS.items():
        file = folder / f"{name}.png"
        if has_something(measured):
            _figure(measured, title, file, plot)
            drawn.append(file)
        else:
            file.unlink(missing_ok=True)  # of an earlier run, which would be taken for this one's
    return drawn


def _figure(rows: Rows, title: str, file: Path, plot: Callable[[Any, Rows], None]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), layout="constrained", dpi=130)
    axes = figure.subplots()
    plot(axes, rows)
    axes.grid(alpha=0.3, which="both")
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        # Beside the axes where there are many lines, which would otherwise be covered.
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(labels) > 5 else {}
        axes.legend(handles, labels, fontsize="small", **place)
    kinds = sorted({str(row["device_kind"]) for row in rows})
    jax_versions = sorted({str(row["jax"]) for row in rows})
    figure.suptitle(title)
    axes.set_title(f"{', '.join(kinds)} · jax {', '.join(jax_versions)}", fontsize="small", color="0.35")
    figure.savefig(file)


def _lines(rows: Rows, without: str = "") -> Iterator[tuple[str, Rows]]:
    """Rows that belong to one line, and the line's name."""
    names = [n for n in _LINES if n != without]
    differing = [n for n in names if len({str(row.get(n)) for row in rows}) > 1]
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row.get(n) for n in names)].append(row)
    for key, group in groups.items():
        words = {n: v for n, v in zip(names, key, strict=True) if n in differing}
        counted = {"devices": "{} devices", "steps_per_dispatch": "{} steps a dispatch"}
        yield " ".join(counted.get(n, "{}").format(v) for n, v in words.items()) or str(group[0]["model"]), group


def _sizes_on_axis(axis: Any, values: list[int]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(sorted(set(values))))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:.0f}")


def _by_batch(axes: Any, rows: Rows, value: Callable[[dict[str, Any]], float]) -> None:
    for label, group in _lines(rows):
        points = sorted((row["batch_size"], value(row)) for row in group)
        axes.plot(*zip(*points, strict=True), "o-", ms=4, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("batch size (images)")
    axes.set_ylim(bottom=0)
    _sizes_on_axis(axes.xaxis, [row["batch_size"] for row in rows])


def _throughput(axes: Any, rows: Rows) -> None:
    _by_batch(axes, rows, lambda row: row["images_per_second"])
    axes.set_ylabel("images per second")


def _memory(axes: Any, rows: Rows) -> None:
    measured = all(row.get("peak_bytes") for row in rows)
    _by_batch(axes, rows, lambda row: row["peak_bytes" if measured else "predicted_bytes"] / 2**30)
    axes.set_ylabel(f"memory of a device, {'measured' if measured else 'as XLA counts it'} (GiB)")


def _latency(axes: Any, rows: Rows) -> None:
    for label, group in _lines(rows):
        points = sorted((row["batch_size"], row["latency_ms"], row["images_per_second"]) for row in group)
        axes.plot([p[1] for p in points], [p[2] for p in points], "o-", ms=4, label=label)
        for batch, x, y in points:
            axes.annotate(str(batch), (x, y), textcoords="offset points", xytext=(4, -9), fontsize="x-small")
    axes.set_xscale("log")
    for formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "125" else "")
    axes.set_ylim(bottom=0)
    axes.set(xlabel="latency of a step (ms); the numbers are batch sizes", ylabel="images per second")


def _scaling(axes: Any, rows: Rows) -> None:
    fake = any(row["fake_devices"] for row in rows)
    for label, group in _lines([row for row in rows if row.get("scaling") != "strong"] or rows, without="devices"):
        base = min(group, key=lambda row: row["devices"])
        points = sorted((row["devices"], row["images_per_second"] / base["images_per_second"]) for row in group)
        axes.plot(*zip(*points, strict=True), "o-", ms=4, label=label)
    counts = sorted({row["devices"] for row in rows})
    ideal = [1.0 if fake else count / counts[0] for count in counts]
    axes.plot(counts, ideal, "--", color="0.5", label="ideal" + (": fake devices share the cores" if fake else ""))
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="devices", ylabel=f"images per second, times those of {counts[0]}")
    _sizes_on_axis(axes.xaxis, counts)


def _several(name: str) -> Callable[[Rows], bool]:
    return lambda rows: len({row[name] for row in rows}) > 1


PLOTS: dict[str, tuple[Callable[[Rows], bool], Callable[[Any, Rows], None]]] = {
    "throughput": (_several("batch_size"), _throughput),
    "memory": (_several("batch_size"), _memory),
    "latency": (_several("batch_size"), _latency),
    "scaling": (_several("devices"), _scaling),
}
