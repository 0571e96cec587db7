"""Configuration of the documentation site: `python -m sphinx -W --keep-going -b html docs build/site`.

`JAXCNN_REPOSITORY_URL` is the address under which a repository host shows files, such as
`https://github.com/OWNER/jaxcnn/blob/main`. Links to source files then lead there. Without it, the site contains copies
of these files, so that it is complete without a host.
"""

import hashlib
import os
import sys
import typing
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "_extensions")]
# Notebooks run in processes of their own, which must import the same jaxcnn.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A cell that ends with a figure shows it, as in a notebook that has imported pyplot.
IPYTHON = ROOT / "build" / "ipython"
STARTUP = IPYTHON / "profile_default" / "startup" / "figures.py"
STARTUP.parent.mkdir(parents=True, exist_ok=True)
STARTUP.write_text(
    "from IPython import get_ipython\n"
    "from IPython.core.pylabtools import select_figure_formats\n\n"
    'select_figure_formats(get_ipython(), {"png"}, dpi=90)\n'
)
os.environ["IPYTHONDIR"] = str(IPYTHON)
# jaxtyping then shows annotations as they are written.
typing.GENERATING_DOCUMENTATION = "jaxcnn"

from jaxcnn.version import __version__  # noqa: E402

project = "jaxcnn"
author = "the jaxcnn authors"
copyright = author
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_copybutton",
    "docstrings",
    "reference",
    "repository",
]
exclude_patterns = ["_extensions", "_static", "requirements*"]

myst_enable_extensions = ["colon_fence", "attrs_inline"]
myst_heading_anchors = 4


def digest_of_library() -> str:
    """Return a digest of the library's sources: a changed library runs the notebooks again."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "jaxcnn").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "notebooks" / digest_of_library())
nb_execution_timeout = 120  # seconds for one cell
nb_execution_in_temp = True
nb_execution_show_tb = True
nb_output_stderr = "remove-warn"
nb_merge_streams = True

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
maximum_signature_line_length = 90
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Fields", "params_style"), ("Sources", "References")]
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"jaxcnn {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-code-background": "#f3f5f8"},
    "dark_css_variables": {"color-code-background": "#1f2226"},
}
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
# Syntax colors with a contrast of at least 4.5 : 1 against the background.
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

repository_url = os.environ.get("JAXCNN_REPOSITORY_URL", "")
# Pages of the repository outside of docs/ that are pages of the site, by glob patterns.
repository_pages = {
    "experiments/README.md": "gallery",
    "benchmarks/README.md": "benchmark_results",
    "benchmarks/results/**/*.md": "results",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
}
suppress_warnings = ["toc.glob"]
