"""Sphinx extension: a default that is a function is shown by its name.

As ``<function magnitude>`` Python could not read the signature, and Sphinx would show all of it as raw text. (Its own
``autodoc_preserve_defaults`` would show every default as it is written, ``estimator=DEFAULT_ESTIMATOR``, which tells a reader
less than ``'systematic'``.)
"""

import re

FUNCTION = re.compile(r"<(?:built-in )?function ([\w.]+)(?: at 0x[0-9a-f]+)?>")


def name_functions(app, what, name, obj, options, signature, return_annotation):
    if signature and FUNCTION.search(signature):
        return FUNCTION.sub(r"\1", signature), return_annotation
    return None


def setup(app):
    app.connect("autodoc-process-signature", name_functions)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
