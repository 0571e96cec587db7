"""`jaxcnn models`: the architectures, as a table or JSON."""

import json

import pytest

from jaxcnn.cli import main


def listed(capsys, *flags: str) -> list[dict]:
    assert main(["models", *flags, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_has_the_facts_of_the_models_that_match(capsys):
    rows = {row["name"]: row for row in listed(capsys, "resnet*")}
    row = rows["resnet50"]
    assert (row["family"], row["year"], row["params"], row["image_shape"]) == (
        "ResNet",
        2015,
        25_557_032,
        [224, 224, 3],
    )
    assert row["macs"] == 4_089_184_256
    assert row["weights"] == ["torchvision"]
    assert "lenet5" not in rows


def test_a_family_is_chosen_by_its_name_in_any_case(capsys):
    assert {row["family"] for row in listed(capsys, "--family", "densenet")} == {"DenseNet"}


@pytest.mark.parametrize(("flag", "key"), [("params", "params"), ("macs", "macs"), ("year", "year"), ("name", "name")])
def test_rows_are_sorted_by_a_column(capsys, flag, key):
    values = [row[key] for row in listed(capsys, "--sort", flag)]
    assert values == sorted(values)


def test_the_table_has_sizes_and_on_request_papers(capsys):
    assert main(["models", "lenet5"]) == 0
    table = capsys.readouterr().out
    assert "61.7k" in table
    assert "28x28x1" in table
    assert "LeCun" not in table
    assert main(["models", "lenet5", "--papers"]) == 0
    assert "LeCun" in capsys.readouterr().out


def test_ids_are_listed_and_counted(capsys):
    assert main(["models", "mobilenet_v3_small", "--ids"]) == 0
    table = capsys.readouterr().out
    assert "timm:mobilenetv3_small_100.lamb_in1k" in table
    assert table.splitlines()[-1] == "1 ids of timm and 1 ids of torchvision"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["none*"], "no model matches 'none*'"),
        (["--family", "ResNett"], "ResNet"),
        (["lenet*", "--family", "ResNet"], "omit the pattern"),
    ],
)
def test_a_mistake_is_one_line(capsys, flags, says):
    assert main(["models", *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert "\n" not in error
