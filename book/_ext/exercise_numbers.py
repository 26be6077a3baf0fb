"""Sphinx extension: exercises of a page without a chapter number are counted anew on each page.

Sphinx counts them through all such pages, so that the first exercise of the third page would be Exercise 6. In numbered chapters
the number begins with the chapter's, and is left as it is.
"""


def count_by_page(app, env):
    for numbers in env.toc_fignumbers.values():
        exercises = numbers.get("exercise", {})
        for place, (label, number) in enumerate(exercises.items(), start=1):
            if len(number) == 1:
                exercises[label] = (place,)
    return []


def setup(app):
    app.connect("env-get-updated", count_by_page, priority=900)  # after Sphinx has numbered all
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
