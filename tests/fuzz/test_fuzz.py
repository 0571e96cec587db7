"""Every command line is answered by success or by one line, whatever is in the files that it reads."""

import pytest

from jaxcnn.cli import COMMANDS

from .campaign import run_cases
from .cases import Case, make
from .damage import Damage
from .judge import snapshot
from .report import Report
from .runner import Workplace
from .schema import read_commands
from .template import MAKERS
from .values import NEVER

SEED = 0
CASES_PER_TEST = 100
SAMPLE = 200
"""Number of cases that CI runs."""

# What a command does, and the kind of fault that is found.
PLANTED = {
    "succeed": None,
    "refuse": None,
    "raise": "exception",
    "exit": "exception",
    "hang": "killed",
    "allocate": "killed",
    "die": "killed",
    "print a traceback": "traceback",
    "print two lines": "message",
    "say nothing": "message",
    "return 3": "status",
    "leave a part": "temporary files",
    "write and refuse": "files",
    "change and refuse": "files",
    "reach a network": "exception",
}


def check(numbers: range) -> None:
    """Run cases, and list those that went wrong with the commands that run them alone."""
    report = Report(SEED)
    for case, outcome, faults in run_cases(SEED, numbers):
        report.add(case, outcome, faults)
    lines = [f"{group['reproduce']}  # {group['kind']}: {group['cause']}" for group in report.groups()]
    assert not lines, "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [pytest.param(n, marks=[pytest.mark.exhaustive] if n >= SAMPLE else []) for n in range(0, 500, CASES_PER_TEST)],
)
def test_many_command_lines_are_answered(first):
    check(range(first, first + CASES_PER_TEST))


def test_planted_faults_are_found(tmp_path):
    found = {}
    with Workplace(tmp_path, "tests.fuzz.planted:main", seconds=1.5) as workplace:
        for number, fault in enumerate(PLANTED):
            _, faults = workplace.run(Case(0, number, "", (fault, "net.py")))
            found[fault] = faults[0].kind if faults else None
    assert found == PLANTED


def test_every_command_and_flag_is_tried():
    commands = read_commands()
    assert {command.words[0] for command in commands.values()} == set(COMMANDS)
    tried = {name: set() for name in commands}
    for number in range(10000):
        case = make(1, number)
        if case.command:
            tried[case.command].update(arg.split("=")[0] for arg in case.args)
    for name, command in commands.items():
        options = {flag.option for flag in command.flags if not flag.positional and flag.name not in NEVER}
        assert options - tried[name] == set(), name


def test_a_case_depends_on_its_seed_and_number_only():
    assert [make(7, number) for number in range(50)] == [make(7, number) for number in reversed(range(50))][::-1]
    assert make(7, 0) != make(8, 0)


def test_damage_depends_on_its_seed_only(tmp_path):
    for item in MAKERS:
        for seed in range(5):
            copies = []
            for copy in ("first", "second"):
                folder = tmp_path / copy / f"{item}-{seed}"
                folder.mkdir(parents=True)
                MAKERS[item](folder / item)
                described = Damage(item, seed / 5, seed).inflict(folder)
                copies.append((described, snapshot(folder)))
            assert copies[0] == copies[1]
