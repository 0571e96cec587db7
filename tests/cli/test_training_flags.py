"""Keywords of the optimizer are flags."""

import pytest

from jaxcnn.cli._recipe import recipe_defaults
from jaxcnn.cli._training_flags import parse_training
from jaxcnn.cli.commands.train import Flags
from jaxcnn.train import OptimizerConfig


def optimizer(*args):
    return parse_training(Flags, "train", args, recipe_defaults(Flags, args)).optimizer


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), OptimizerConfig()),
        (("--optimizer.name", "adam", "--optimizer.b2", "0.95"), OptimizerConfig("adam", b2=0.95)),
        (("--optimizer.b2=0.95", "--optimizer.name=adam"), OptimizerConfig("adam", b2=0.95)),
        (("--optimizer.name", "adam", "--optimizer.eps-root", "-1e-3"), OptimizerConfig("adam", eps_root=-1e-3)),
        (
            ("--optimizer.name", "adam", "--optimizer.mu_dtype", "half"),
            OptimizerConfig("adam", mu_dtype="half"),
        ),
        (("--optimizer.momentum", "0.8", "--optimizer.nesterov", "true"), OptimizerConfig(momentum=0.8, nesterov=True)),
        (("--optimizer.nesterov", "--optimizer.decay-all"), OptimizerConfig(decay_all=True, nesterov=True)),
        (("--optimizer.name", "rmsprop", "--optimizer.momentum", "None"), OptimizerConfig("rmsprop")),
        (
            ("--optimizer.name", "muon", "--optimizer.ns-coeffs", "(3.4, -4.8, 2.0)", "--optimizer.ns-steps", "3"),
            OptimizerConfig("muon", ns_coeffs=(3.4, -4.8, 2.0), ns_steps=3),
        ),
    ],
)
def test_keywords_are_python_literals(args, expected):
    assert optimizer(*args) == expected


def test_flags_override_the_keywords_of_a_recipe_and_another_optimizer_drops_them(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from jaxcnn.train import Config, OptimizerConfig\n"
        "config = Config(optimizer=OptimizerConfig('rmsprop', 1e-3, momentum=0.5, decay=0.95, eps=1e-6))\n"
    )
    given = ("--config", str(recipe))
    assert optimizer(*given) == OptimizerConfig("rmsprop", 1e-3, momentum=0.5, decay=0.95, eps=1e-6)
    changed = optimizer(*given, "--optimizer.decay", "0.8", "--optimizer.learning-rate", "0.1")
    assert changed == OptimizerConfig("rmsprop", 0.1, momentum=0.5, decay=0.8, eps=1e-6)
    assert optimizer(*given, "--optimizer.name", "adam") == OptimizerConfig("adam", 1e-3)


def test_the_help_says_how_to_give_keywords(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        optimizer("--help")
    out = capsys.readouterr().out
    assert "--optimizer.b2 0.95" in out
    assert "--optimizer.options" not in out
