"""Sphinx: the pages of this folder, and the reference from the docstrings. Reads nothing from the network."""

import gradtrace

project = "gradtrace"
release = version = gradtrace.__version__

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc"]
nb_execution_mode = "off"  # what is stored is shown; tests run the notebooks
exclude_patterns = ["_build"]
default_role = "code"  # `name` in a docstring is code, as in the pages
html_theme = "furo"
html_title = f"gradtrace {version}"
html_static_path, html_css_files = ["_static"], ["wide.css"]
html_show_copyright = html_show_sourcelink = False

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say more: shapes
numpydoc_show_class_members = False  # autodoc lists them
