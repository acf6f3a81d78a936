"""Sphinx settings: furo, Markdown by myst, API from docstrings; built with -n -W."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "pytest-airlock"
author = "The pytest-airlock maintainers"
project_copyright = "2026, The pytest-airlock maintainers"
version = release = installed_version("pytest-airlock")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "pytest-airlock"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# Docstrings are Markdown-flavoured plain text: `name` is code, not a reference to be resolved.
default_role = "code"

# Private: the type of "not given".
nitpick_ignore = [("py:class", "pytest_airlock.sandbox.sandbox._Default")]
# Types of other projects: their inventories would have to be downloaded, and the build needs no network.
nitpick_ignore_regex = [(r"py:.*", r"(?!pytest_airlock).*")]


def verbatim(_app: Sphinx, what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Show the docstring of a module as it is written: trees, numbered contracts and tables are laid out by hand."""
    if what == "module":
        lines[:] = ["::", "", *(f"   {line}" for line in lines), ""]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", verbatim)
