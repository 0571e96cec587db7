"""The benchmark of many networks: its rows, and the table that they become."""

import json

from benchmarks import many


def row(networks, how, seconds, error=None):
    case = {"model": "lenet5", "batch_size": 64, "epochs": 1.0, "networks": networks, "how": how}
    if error:
        return {**case, "error": error}
    found = {"steps": 100, "test_accuracy": 0.8, "devices": 1, "device_kind": "A CPU", "platform": "cpu"}
    return {**case, **found, "seconds": seconds, "error": None}


def test_the_table_gives_the_cost_in_networks(tmp_path, monkeypatch, capsys):
    seconds = {(1, "turns"): 10.0, (1, "together"): 20.0, (10, "turns"): 40.0, (10, "together"): None}

    def measure(case, timeout):
        found = seconds[case["networks"], case["how"]]
        return row(case["networks"], case["how"], found, None if found else "took more than 5 s")

    monkeypatch.setattr(many, "measure", measure)
    flags = ["--networks", "1,10", "--how", "turns,together", "--timeout", "5", "--out", str(tmp_path)]
    assert many.main(flags) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row.get("cost") for row in rows] == [1.0, 2.0, 4.0, None]
    assert rows[2]["seconds_per_network"] == 4.0
    assert rows[2]["images_per_second"] == 10 * 100 * 64 / 40
    text = (tmp_path / "rows.md").read_text()
    assert "| 10 | turns | 40.0 | 4.00 | 1,600 | 4.00 | 80.00% |" in text
    assert "| 10 | together | | | | | took more than 5 s |" in text
    assert "lenet5, batch 64, 100 steps, on 1 x A CPU" in capsys.readouterr().out


def test_a_row_says_why_its_process_failed():
    case = {"model": "lenet6", "batch_size": 64, "epochs": 1.0, "data": "synthetic", "networks": 1, "how": "turns"}
    found = many.measure(case, 100.0)
    assert "did you mean 'lenet5'?" in found["error"]
    assert "seconds" not in found
