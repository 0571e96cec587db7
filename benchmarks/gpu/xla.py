"""Presets of XLA's options on ResNet-50; the part `xla`.

Each preset has a process of its own, which takes turns with one that has none.
"""

import statistics
import sys
from typing import Any

from benchmarks.gpu.run import MIN_SECONDS, TIME_LIMIT, Run
from benchmarks.peers.__main__ import image_shape
from benchmarks.peers.turns import PeerError, Turn, alternate
from benchmarks.results import write
from jaxcnn.startup.presets import PRESETS, VARIABLE

TITLE = "Presets of XLA's options"
NONE = "none"
TINY = ("no-command-buffers",)

Row = dict[str, Any]


def xla(run: Run) -> list[Row]:
    """Return a row without a preset, and one for each preset, with its step time relative to that without."""
    model = "lenet5" if run.tiny else "resnet50"
    about = {"model": model, "mode": "train", "dtype": "bfloat16", "image_shape": image_shape(model)}
    task = {**about, "batch_size": 2 if run.tiny else 128}
    names = TINY if run.tiny else tuple(PRESETS)
    rows: list[Row] = [_start(NONE, task)]
    if not run.has_time:
        rows[0]["error"] = TIME_LIMIT
    baseline = Turn(sys.executable, "ours", task, {VARIABLE: ""}) if run.has_time else None
    try:
        if baseline is not None:
            rows[0] |= baseline.read(run.seconds_left)
        for name in names:
            rows.append(_start(name, task))
            if baseline is None or run.seconds_left < 2 * MIN_SECONDS:
                rows[-1]["error"] = TIME_LIMIT
            else:
                _measure(rows[0], rows[-1], baseline, task, run)
            print(f"  {name}: {rows[-1]['error'] or format(rows[-1]['ratio'], '.3f')}", flush=True)
            write(run.folder, TITLE, rows, to_markdown(rows))
    except PeerError as error:  # of the baseline
        rows[0]["error"] = str(error)
    finally:
        if baseline is not None:
            baseline.close()
    write(run.folder, TITLE, rows, to_markdown(rows))
    return rows


def _start(name: str, task: dict[str, Any]) -> Row:
    flags = " ".join(PRESETS[name].flags) if name != NONE else ""
    return {"preset": name, "flags": flags, **task, "error": None}


def _measure(first: Row, row: Row, baseline: Turn, task: dict[str, Any], run: Run) -> None:
    """Let the process of a preset take turns with that of the baseline, and add the times to both rows.

    Raises:
      PeerError: if the baseline fails.
    """
    turn = Turn(sys.executable, "ours", task, {VARIABLE: row["preset"]})
    samples: dict[str, list[float]] = {NONE: [], row["preset"]: []}
    try:
        row |= turn.read(run.seconds_left)
        estimates = {NONE: first["estimate"], row["preset"]: row["estimate"]}
        turns = {NONE: baseline, row["preset"]: turn}
        rounds, seconds = (2, 0.05) if run.tiny else (5, 0.5)
        for _, name, result in alternate(turns, estimates, rounds, seconds, max(MIN_SECONDS, run.seconds_left)):
            if isinstance(result, PeerError):
                if name == NONE:
                    raise result
                row["error"] = str(result)
            else:
                samples[name].append(result)
    except PeerError as error:
        row["error"] = row["error"] or str(error)
        return
    finally:
        turn.close()
    if not row["error"]:
        add_times(first, row, samples[NONE], samples[row["preset"]])


def add_times(first: Row, row: Row, without: list[float], with_preset: list[float]) -> None:
    """Add step times to both rows, and to that of the preset its time relative to that without, round by round.

    Args:
      first: the row without a preset, which keeps its first time.
      row: the row of the preset.
      without, with_preset: seconds per step of each round.
    """
    for target, samples in ((first, without), (row, with_preset)):
        median = statistics.median(samples)
        target.setdefault("step_ms", 1e3 * median)
        target.setdefault("images_per_second", target["batch_size"] / median)
    # Load on the machine affects both samples of a round, so it mostly cancels in their ratio.
    ratios = [mine / theirs for mine, theirs in zip(with_preset, without, strict=True)]
    row |= {"ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}


def to_markdown(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    first = rows[0]
    height, width, _ = first["image_shape"]
    lines = [
        f"{first['model']}, batch {first['batch_size']}, {height}x{width}, {first['dtype']}, "
        f"{first.get('device_kind', 'not measured')}\n",
        "| preset | step ms | images/s | time / without | minimum-maximum | compile s | flags |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        flags = f"`{row['flags']}`" if row["flags"] else ""
        if row["error"] or "step_ms" not in row:
            lines.append(f"| {row['preset']} | {row['error'] or 'no preset ran'} | | | | | {flags} |")
            continue
        ratio = f"{row['ratio']:.3f} | {row['ratio_low']:.3f}-{row['ratio_high']:.3f}" if "ratio" in row else "1 |"
        lines.append(
            f"| {row['preset']} | {row['step_ms']:.2f} | {row['images_per_second']:,.0f} | {ratio} "
            f"| {row['compile_seconds']:.1f} | {flags} |"
        )
    return "\n".join(lines) + "\n"
