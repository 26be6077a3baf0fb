"""The examples in the docstrings are run."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import atslib

NAMES = [module.name for module in pkgutil.walk_packages(atslib.__path__, "atslib.") if not module.name.endswith("__main__")]
MODULES = [importlib.import_module(name) for name in NAMES]
EXAMPLES = [test for module in MODULES for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]


@pytest.mark.parametrize("test", EXAMPLES, ids=lambda test: test.name)
def test_examples(test):
    said = []
    result = doctest.DocTestRunner().run(test, out=said.append)
    assert result.attempted and not result.failed, "".join(said)


def test_all_are_found():
    lines = [line for module in MODULES for line in Path(module.__file__).read_text(encoding="utf-8").splitlines()]
    assert sum(len(test.examples) for test in EXAMPLES) == sum(line.strip().startswith(">>> ") for line in lines) > 0
