"""The comparison of forward passes: libraries that are missing are rows, and the others are timed in turns."""

import json

import pytest

from benchmarks.peers.forward import PEERS, main


def test_unknown_libraries_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--peers", "jaxcnn-frosen", "--out", str(tmp_path)])
    assert "did you mean 'jaxcnn-frozen'?" in capsys.readouterr().err


@pytest.mark.slow
def test_forward_passes_are_timed(tmp_path, capsys):
    peers = ["jaxcnn-frozen", "jaxcnn", "onnxruntime"]
    assert set(peers) < set(PEERS)
    flags = ["--models", "lenet5", "--batch-sizes", "1", "--rounds", "1", "--seconds", "0.01", "--here"]
    assert main([*flags, "--peers", ",".join(peers), "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["peer"] for row in rows] == peers
    assert [row["error"] for row in rows] == [None] * 3
    assert all(row["ratio"] > 0 for row in rows)
    assert "jaxcnn-frozen" in capsys.readouterr().out
