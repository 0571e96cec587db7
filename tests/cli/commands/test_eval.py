"""`jaxcnn eval`: a run tested again."""

import csv
import json

import pytest
from PIL import Image

from jaxcnn.cli import main


def test_json_has_the_accuracy_that_training_reported(lenet_run, capsys):
    assert main(["eval", "--workdir", str(lenet_run.workdir), "--json"]) == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested["test_accuracy"] == lenet_run.test_accuracy
    assert tested["test_examples"] == 2000


def test_the_table_has_the_number_of_images(lenet_run, capsys):
    assert main(["eval", "--workdir", str(lenet_run.workdir)]) == 0
    assert "2,000" in capsys.readouterr().out
    assert main(["eval", "--workdir", str(lenet_run.workdir), "--checkpoint", "best", "--per-class"]) == 0
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines() if line.startswith("step")] == [["step", "60"]]
    assert "top-5 accuracy" in out
    assert len([line for line in out.splitlines() if "%" in line and line.startswith("T-shirt/top")]) == 1


def test_json_has_the_values_of_each_class(lenet_run, capsys):
    assert main(["eval", "--workdir", str(lenet_run.workdir), "--json", "--dataset", "fashion_mnist_mini"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert len(values["classes"]) == 10
    assert sum(row["examples"] for row in values["classes"]) == values["test_examples"]


def test_reports_are_written_as_csv_markdown_and_a_picture(lenet_run, tmp_path, capsys):
    files = [tmp_path / f"report.{kind}" for kind in ("csv", "md", "PNG")]
    assert main(["eval", "--workdir", str(lenet_run.workdir), "--report", *map(str, files), "--json"]) == 0
    out, err = capsys.readouterr()
    values = json.loads(out)
    assert values["metrics"] == {}  # those of the report are not printed
    assert err.splitlines() == [f"wrote {file}" for file in files]
    rows = list(csv.DictReader(files[0].read_text(encoding="utf-8").splitlines()))
    for row, expected in zip(rows, values["classes"], strict=True):
        assert (row["class"], int(row["images"])) == (expected["class"], expected["examples"])
        assert float(row["recall"]) == expected["recall"]
    mistakes = sum(int(row["taken_for_images"]) for row in rows)
    assert 0 < mistakes <= round((1 - values["test_accuracy"]) * values["test_examples"])
    assert len(files[1].read_text(encoding="utf-8").splitlines()) == 2 + 10 + 1
    with Image.open(files[2]) as picture:
        assert picture.format == "PNG"


def test_a_report_is_printed_below_the_accuracy(lenet_run, capsys):
    assert main(["eval", "--workdir", str(lenet_run.workdir), "--report", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(index for index, line in enumerate(lines) if line.endswith("most often taken for"))
    assert header > next(index for index, line in enumerate(lines) if line.startswith("test accuracy"))
    assert lines[header + 1].startswith("T-shirt/top")
    assert lines[-1].startswith("mean of classes")
    assert len(lines) == header + 12


def test_further_metrics_are_printed(lenet_run, capsys):
    args = ["eval", "--workdir", str(lenet_run.workdir), "--metrics", "top1", "per_class", "confusion"]
    assert main(args) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["top1"] == f"{lenet_run.test_accuracy:.4f}"
    assert 0 < float(shown["per_class/macro_f1"]) < 1
    assert "--json" in shown["confusion"]
    assert main([*args, "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert [*metrics] == ["top1", "per_class", "confusion"]
    assert sum(map(sum, metrics["confusion"])) == 2000


def test_weights_are_evaluated_like_their_run(lenet_run, tmp_path, capsys):
    weights = tmp_path / "lenet5.safetensors"
    assert main(["convert", "--workdir", str(lenet_run.workdir), "--out", str(weights)]) == 0
    capsys.readouterr()
    args = ["eval", "--model", "lenet5", "--weights", str(weights), "--json"]
    assert main([*args, "--dataset", "fashion_mnist_mini"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["test_accuracy"] == lenet_run.test_accuracy
    assert values["classes"][0]["class"] == "T-shirt/top"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--workdir", "RUN", "--checkpoint", "61"], "Steps kept: 60"),
        (["--workdir", "RUN", "--checkpoint", "bets"], "must be latest, best or a step"),
        (["--workdir", "RUN", "--dataset", "fashion_mnist_mni"], "did you mean 'fashion_mnist_mini'?"),
        (["--workdir", "RUN", "--model", "resnet18"], "trained lenet5, not resnet18"),
        (["--workdir", "RUN", "--classes", "names.txt"], "--workdir and --classes are mutually exclusive"),
        (["--workdir", "RUN", "--metrics", "top5", "per_clas"], "unknown metric 'per_clas'; did you mean 'per_class'?"),
        (["--workdir", "RUN", "--metrics", "top10"], "metric top10 needs more than 10 classes, got 10"),
        (
            ["--workdir", "RUN", "--report", "report.txt"],
            "must be a file that ends in .csv, .md or .png, or -: report.txt",
        ),
        (["--workdir", "RUN", "--report", "no/such/report.csv"], "the folder of --report does not exist: no/such"),
        (["--workdir", "RUN", "--report", ""], "--report is empty"),
        (["--workdir", "RUN", "--report", "-", "--json"], "--json and --report - are mutually exclusive"),
        (["--model", "lenet5"], "--weights"),
        (["--model", "lenet5", "--weights", "x.pth"], "no dataset given. Give --dataset"),
        (["--model", "lenet5", "--weights", "x.pth", "--checkpoint", "best"], "--checkpoint applies only to a run"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(args, says, lenet_run, capsys):
    assert main(["eval", *(str(lenet_run.workdir) if arg == "RUN" else arg for arg in args)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1
