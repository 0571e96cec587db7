"""The source has no call that runs what a file says, but for the files that are named here, with the reason."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "jaxcnn"

RUNS_A_FILE = {
    # Calls that run code or commands, by the end of their names.
    *("eval", "exec", "execfile", "compile", "__import__", "system", "popen", "getoutput"),
    *("exec_module", "spec_from_file_location", "run_path", "run_module"),
    # Calls that unpack objects or archives.
    *("load_module", "extractall", "extract", "unpack_archive", "mktemp", "Unpickler"),
}
READERS = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "torch")
"""Modules whose `load` runs code that the data asks for."""

ALLOWED = {
    # The file that the command line names as a model or a recipe: the user's own program.
    ("cli/_own_model.py", "spec_from_file_location"),
    ("cli/_own_model.py", "exec_module"),
    ("cli/_recipe.py", "run_path"),
    # `parallel.compile` and `jit(...).compile` compile functions, not texts.
}


def names_of_calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                yield function.attr, isinstance(function.value, ast.Name) and function.value.id, node
            elif isinstance(function, ast.Name):
                yield function.id, None, node


def suspicious(path, source):
    """Yield what a file calls that could run something."""
    name = str(path)
    for called, owner, node in names_of_calls(ast.parse(source)):
        words = {keyword.arg: keyword.value for keyword in node.keywords}
        is_method = owner is not None
        if called in RUNS_A_FILE and not (is_method and called in ("compile", "eval", "extract", "exec")):
            yield name, called
        if owner in READERS and called in ("load", "loads", "open", "unsafe_load", "full_load"):
            yield name, f"{owner}.{called}"
        if isinstance(words.get("shell"), ast.Constant) and words["shell"].value:
            yield name, "shell=True"
        if owner in ("np", "numpy") and called == "load":
            if not (isinstance(words.get("allow_pickle"), ast.Constant) and words["allow_pickle"].value is False):
                yield name, "np.load"
        elif "allow_pickle" in words:
            yield name, "allow_pickle"


def found_in(folder):
    paths = [path.relative_to(folder) for path in folder.rglob("*.py")]
    return {found for path in paths for found in suspicious(path, (folder / path).read_text())}


def test_no_call_runs_what_a_file_says():
    own_pipes = {("train/many/_worker.py", "pickle.load")}  # from the process that started it, over a pipe
    assert found_in(ROOT) - own_pipes <= ALLOWED


PLANTED = [
    "import numpy as np\nnp.load(path)",
    "import numpy as np\nnp.load(path, allow_pickle=True)",
    "np.savez(path, allow_pickle=True)",
    "import pickle\npickle.loads(data)",
    "import yaml\nyaml.load(text)",
    "import torch\ntorch.load(path)",
    "eval(text)",
    "archive.extractall()",
    "subprocess.run(text, shell=True)",
    "os.system(text)",
    "pickle.Unpickler(file)",
]


@pytest.mark.parametrize("source", PLANTED)
def test_a_planted_call_is_found(source, tmp_path):
    (tmp_path / "planted.py").write_text(source)
    assert found_in(tmp_path)


UNPICKLERS = ["data/preparation/originals.py"]


def test_classes_that_read_pickles_refuse_every_name_but_those_of_arrays():
    """`Unpickler` is subclassed in one file, whose `find_class` has a list of names."""
    subclasses = []
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
            if any("Unpickler" in base for base in bases):
                subclasses.append(str(path.relative_to(ROOT)))
                assert any(isinstance(part, ast.FunctionDef) and part.name == "find_class" for part in node.body)
    assert subclasses == UNPICKLERS


# Every module that Python imports while a hostile run is examined and opened is known before its files are read.
OPENED = """
import json, pathlib, sys
from jaxcnn.errors import UsageError, RunError
from jaxcnn.train import check_run, load_run
import jaxcnn.train.runtime.trained, jaxcnn.train.runtime.checkpoint, orbax.checkpoint
folder = pathlib.Path(sys.argv[1])
for model in ("custom:planted.Net()", "planted.py:Net", "planted:Net", "planted"):
    config = json.loads((folder / "config.json").read_text())
    config.pop("sha256", None)
    (folder / "config.json").write_text(json.dumps({**config, "model": model}))
    check_run(folder)
    try:
        load_run(folder)
        raise SystemExit("it was opened")
    except (UsageError, RunError) as error:
        assert "planted" in str(error) or "model" in str(error), error
assert "planted" not in sys.modules
print("done")
"""


def test_a_run_that_names_a_program_does_not_run_it(tmp_path):
    from jaxcnn.train import Config
    from jaxcnn.train.config import to_dict
    from jaxcnn.train.runtime import workdir

    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    workdir.write_json(run / "config.json", to_dict(Config()))
    planted = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for folder in (run, tmp_path):
        (folder / "planted.py").write_text(planted)
    done = subprocess.run([sys.executable, "-c", OPENED, str(run)], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_prepared_dataset_that_names_a_class_of_another_package_imports_nothing(tmp_path, monkeypatch):
    from jaxcnn.data import datasets, open_dataset
    from jaxcnn.errors import UsageError

    (tmp_path / "planted_module.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    version = next((datasets.BUNDLED_DIR / "fashion_mnist_mini").glob("*/dataset_info.json")).parent
    copy = tmp_path / "data" / "fashion" / version.name
    shutil.copytree(version, copy)
    features = (copy / "features.json").read_text()
    escaped = "\\u0070ythonClassName"
    for key, name in (("pythonClassName", "planted_module.Image"), (escaped, "planted_module.Image")):
        start, _, rest = features.partition('"pythonClassName": "')
        changed = f'{start}"{key}": "{name}"{rest.partition(chr(34))[2]}'
        assert json.loads(changed) != json.loads(features)
        (copy / "features.json").write_text(changed)
        with pytest.raises(UsageError, match=r"unsupported feature class in .*: planted_module\.Image"):
            open_dataset("fashion", tmp_path / "data")
