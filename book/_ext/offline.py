"""Sphinx extension: pages that need no network.

The scripts of book/_vendor are served by the book itself, below _static of the rendered pages. They must not lie in
book/_static: Jupyter Book adds every `.js` found there to every page, and widgets would be drawn twice.

Jupyter Book always loads sphinx-thebe, which names a content delivery network on every page although the book has no
live cells; its scripts are taken out again.
"""

from pathlib import Path

VENDOR = Path(__file__).resolve().parents[1] / "_vendor"


def serve_vendored_scripts(app, config):
    config.html_static_path.append(str(VENDOR))


def drop_thebe(app, pagename, templatename, context, doctree):
    def of_thebe(script):
        return script.filename == "sphinx-thebe.js" or "THEBE_JS_URL" in (script.attributes.get("body") or "")

    context["script_files"] = [script for script in context["script_files"] if not of_thebe(script)]


def setup(app):
    app.connect("config-inited", serve_vendored_scripts)
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
