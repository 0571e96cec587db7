"""Plot measurements: throughput and memory by batch size, throughput by latency, and scaling by number of devices."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]

# Rows with the same values in all of these columns form one line of a plot. The legend names only columns that differ.
_LINE_COLUMNS = ("model", "image_size", "mode", "dtype", "parallel", "devices", "steps_per_dispatch")


def draw(rows: Rows, title: str, folder: Path) -> list[Path]:
    """Draw the plots for which the rows have data, write them as PNG files to `folder`, and return the paths."""
    measured = [row for row in rows if row.get("images_per_second")]
    files = []
    for name, (applies, plot) in PLOTS.items():
        file = folder / f"{name}.png"
        if applies(measured):
            _figure(measured, title, file, plot)
            files.append(file)
        else:
            file.unlink(missing_ok=True)  # a plot of an earlier result would not match these rows
    return files


def _figure(rows: Rows, title: str, file: Path, plot: Callable[[Any, Rows], None]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), layout="constrained", dpi=130)
    axes = figure.subplots()
    plot(axes, rows)
    axes.grid(alpha=0.3, which="both")
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        # A long legend inside the axes would cover the lines.
        position: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(labels) > 5 else {}
        axes.legend(handles, labels, fontsize="small", **position)
    kinds = sorted({str(row["device_kind"]) for row in rows})
    jax_versions = sorted({str(row["jax"]) for row in rows})
    figure.suptitle(title)
    axes.set_title(f"{', '.join(kinds)} · jax {', '.join(jax_versions)}", fontsize="small", color="0.35")
    figure.savefig(file)


def _lines(rows: Rows, without: str = "") -> Iterator[tuple[str, Rows]]:
    """Yield the label and the rows of each line. Rows that differ only in the column `without` are on one line."""
    names = [name for name in _LINE_COLUMNS if name != without]
    differing = [name for name in names if len({str(row.get(name)) for row in rows}) > 1]
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row.get(name) for name in names)].append(row)
    formats = {"devices": "{} devices", "steps_per_dispatch": "{} steps per dispatch"}
    for group in groups.values():
        label = " ".join(formats.get(name, "{}").format(group[0].get(name)) for name in differing)
        yield label or str(group[0]["model"]), group


def _set_ticks(axis: Any, values: list[int]) -> None:
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
    _set_ticks(axes.xaxis, [row["batch_size"] for row in rows])


def _throughput(axes: Any, rows: Rows) -> None:
    _by_batch(axes, rows, lambda row: row["images_per_second"])
    axes.set_ylabel("images per second")


def _memory(axes: Any, rows: Rows) -> None:
    measured = all(row.get("peak_bytes") for row in rows)
    _by_batch(axes, rows, lambda row: row["peak_bytes" if measured else "predicted_bytes"] / 2**30)
    axes.set_ylabel(f"{'peak memory' if measured else 'memory predicted by XLA'} per device (GiB)")


def _latency(axes: Any, rows: Rows) -> None:
    for label, group in _lines(rows):
        points = sorted((row["batch_size"], row["latency_ms"], row["images_per_second"]) for row in group)
        axes.plot([p[1] for p in points], [p[2] for p in points], "o-", ms=4, label=label)
        for batch, x, y in points:
            axes.annotate(str(batch), (x, y), textcoords="offset points", xytext=(4, -9), fontsize="x-small")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_label_1_2_5)
    axes.xaxis.set_minor_formatter(_label_1_2_5)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="step latency (ms); points are labeled with the batch size", ylabel="images per second")


def _label_1_2_5(value: float, _: Any) -> str:
    """Return the label of a tick whose first digit is 1, 2 or 5; other labels would overlap on a log axis."""
    return f"{value:g}" if f"{value:.0e}"[0] in "125" else ""


def _scaling(axes: Any, rows: Rows) -> None:
    fake = any(row["fake_devices"] for row in rows)
    for label, group in _scaling_lines(rows):
        base = min(group, key=lambda row: row["devices"])
        points = sorted((row["devices"], row["images_per_second"] / base["images_per_second"]) for row in group)
        axes.plot(*zip(*points, strict=True), "o-", ms=4, label=label)
    counts = sorted({row["devices"] for row in rows})
    ideal = [1.0 if fake else count / counts[0] for count in counts]
    axes.plot(counts, ideal, "--", color="0.5", label="ideal (fake devices share the cores)" if fake else "ideal")
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    baseline = "one device" if counts[0] == 1 else f"{counts[0]} devices"
    axes.set(xlabel="devices", ylabel=f"throughput / throughput of {baseline}")
    _set_ticks(axes.xaxis, counts)


def _scaling_lines(rows: Rows) -> Iterator[tuple[str, Rows]]:
    """Yield the label and the rows of each line of the scaling plot.

    All rows of a line have the same batch per device (weak scaling). If no batch per device was measured with several
    numbers of devices, all rows of a line have the same global batch (strong scaling).
    """
    for label, group in _lines(rows, without="devices"):
        weak = _groups_of_several(group, lambda row: row["batch_size"] / row["devices"])
        lines, unit = (weak, "images per device") if weak else (_groups_of_several(group, _global_batch), "images")
        for batch, line in lines.items():
            yield (f"{label}, {batch:g} {unit}" if len(lines) > 1 else label), line


def _global_batch(row: dict[str, Any]) -> float:
    return row["batch_size"]


def _groups_of_several(rows: Rows, batch: Callable[[dict[str, Any]], float]) -> dict[float, Rows]:
    """Group rows by the value of `batch(row)`, and keep the groups with more than one number of devices."""
    groups = defaultdict(list)
    for row in sorted(rows, key=batch):
        groups[batch(row)].append(row)
    return {size: group for size, group in groups.items() if len({row["devices"] for row in group}) > 1}


def _varies(name: str) -> Callable[[Rows], bool]:
    """Return a function that tests whether rows have more than one value in the column `name`."""
    return lambda rows: len({row[name] for row in rows}) > 1


PLOTS: dict[str, tuple[Callable[[Rows], bool], Callable[[Any, Rows], None]]] = {
    "throughput": (_varies("batch_size"), _throughput),
    "memory": (_varies("batch_size"), _memory),
    "latency": (_varies("batch_size"), _latency),
    "scaling": (_varies("devices"), _scaling),
}
