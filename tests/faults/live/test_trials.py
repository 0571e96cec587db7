"""The loop of all campaigns: it goes on from the lines of earlier trials, and writes the report."""

import json

from live.trials import options, run_trials, save_report, versions, write_report


def flags_in(folder, *words):
    where = ["--lines", str(folder / "lines"), "--report", str(folder / "reports" / "some.json")]
    return options("some", [*words, *where], 3, "things")


def test_the_same_command_makes_only_the_trials_that_are_missing(tmp_path):
    asked = []

    def trial(seed, number):
        asked.append((seed, number))
        return {"things": 2, "failures": []}

    assert len(run_trials(flags_in(tmp_path, "--count", "2"), trial)) == 2
    trials = run_trials(flags_in(tmp_path, "--count", "3"), trial)
    assert asked == [(0, 0), (0, 1), (0, 2)]
    assert [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()] == trials
    assert trials[2] == {"seed": 0, "number": 2, "things": 2, "failures": []}
    run_trials(flags_in(tmp_path, "--seed", "1", "--count", "1"), trial)
    assert asked[3:] == [(1, 0)]
    assert len(run_trials(flags_in(tmp_path, "--count", "8"), trial, lambda trial: trial["things"])) == 4
    assert asked[4:] == [(0, 3)]
    run_trials(flags_in(tmp_path, "--count", "9", "--minutes", "0"), trial)
    assert len(asked) == 5


def test_any_failure_is_in_the_report_and_in_the_exit_status(tmp_path):
    flags = flags_in(tmp_path)
    good, bad = ({"seed": 0, "number": number, "failures": found} for number, found in ((0, []), (1, ["wrong"])))
    assert write_report("some", flags, [good], {"kinds": 1}) == 0
    assert write_report("some", flags, [good, bad], {"kinds": 2}) == 1
    assert json.loads(flags.report.read_text()) == {
        "command": "python tests/faults/campaign.py some --seed 0 --count 3",
        "trials": 2,
        "kinds": 2,
        "failures": [bad],
        "versions": versions(),
    }
    assert save_report(flags.report, {"trials": 1, "failures": []}) == 0
