"""Generate the gallery: one page of all results, with each claim's figures, command and conclusion."""

from pathlib import Path
from typing import Any

from experiments.experiment import Experiment, load_experiments
from experiments.run import RESULTS, read

PAGE = Path(__file__).parent / "README.md"

HEAD = """# Experiments

Claims from lectures on convolutional networks, tested on real images with `jaxcnn`. Each claim is one file in
[`claims/`](claims). `python -m experiments gallery` generates this page from the files in [`results/`](results).

```sh
python -m experiments list              # list the claims
python -m experiments {example:<17} # run one: results/{example}/results.json and its figures
python -m experiments all --seeds 3     # run all of them; stored measurements are reused
python -m experiments all --budget full # full size, for an accelerator
```

`pip install '.[cpu]'` makes convolutions on a CPU faster. ± is the standard deviation over seeds. Times are wall-clock
times; a load above the number of cores means that other programs were running. [`recipes/`](recipes) contains the
papers' own training settings. [The tour](../docs/tutorials/tour.md) goes from one layer to a trained network.
"""

LABELS = {"yes": "confirmed", "partly": "partly confirmed", "no": "**not confirmed**"}


def page(results: Path = RESULTS) -> str:
    """Return the gallery in Markdown, with links relative to the folder above `results`.

    Raises:
      UsageError: results are missing, damaged, or not as `experiments.run` writes them.
    """
    rows = [(experiment, read(results / name)) for name, experiment in load_experiments().items()]
    first_experiment, _ = rows[0]
    parts = [HEAD.format(example=first_experiment.name), _overview([values for _, values in rows])]
    parts += [_section(experiment, values) for experiment, values in rows]
    return "\n".join(parts)


def _overview(results: list[dict[str, Any]]) -> str:
    lines = ["| | claim | | result |", "|---|---|---|---|"]
    for values in results:
        claim, conclusion = values["claim"], values["conclusion"]
        label = LABELS[conclusion["confirmed"]]
        lines.append(f"| [{claim}](#{claim.lower()}) | {values['title']} | {label} | {conclusion['text']} |")
    return "\n".join(lines) + "\n"


def _section(experiment: Experiment, values: dict[str, Any]) -> str:
    name, title, claim = values["name"], values["title"], values["claim"]
    conclusion, machine = values["conclusion"], values["machine"]
    pictures = "\n\n".join(f"![{title}](results/{name}/{picture})" for picture in values["figures"])
    label = LABELS[conclusion["confirmed"]].strip("*").capitalize()
    provenance = [
        f"{values['dataset']}, {len(values['seeds'])} seeds, {_duration(values['seconds'])} on "
        f"{machine['device_kind']}, load {machine['load']:.0f}",
        f"jax {machine['jax']}, flax {machine['flax']}, convolutions by {machine['convolutions']}",
        machine["date"][:10],
    ]
    return f"""<a id="{claim.lower()}"></a>

## {claim}: {title}

{experiment.text}

{pictures}

**{label}.** {conclusion["text"]}

`{values["command"]}` ([code](claims/{name}.py), [numbers](results/{name}/results.json)): {"; ".join(provenance)}.
"""


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
