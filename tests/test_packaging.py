"""The files that say what the package is and what it needs agree with each other."""

import ast
import builtins
import pkgutil
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import atslib

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
TABLES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = TABLES["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

# Packages that conda-forge has under another name than the package index.
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "seaborn": "seaborn-base", "lightning-fabric": "lightning"}
CONDA_NAMES["openslide-bin"] = "openslide"  # the library that openslide-python binds
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
EXTRAS = ("data", "slides", "distributed", "plots", "tables", "widgets", "book", "test")


def requirements(*extras):
    """Run-time requirements and those of the extras, without the package itself: name -> specifier."""
    texts = PROJECT["dependencies"] + [t for e in extras for t in PROJECT["optional-dependencies"][e]]
    found = {}
    for requirement in map(Requirement, texts):
        if requirement.name != "atslib":
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def pins(python):
    """constraints.txt as a Python of this version reads it: name -> version."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        requirement = Requirement(line)
        environment = default_environment() | {"python_version": python, "python_full_version": f"{python}.0"}
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        name = canonicalize_name(requirement.name)
        assert name not in found, f"constraints.txt pins {name} twice for Python {python}"
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"constraints.txt: {line} is no pin"
        found[name] = specifier.version
    return found


def conda_requirements():
    return [Requirement(entry) for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]


@pytest.mark.parametrize("python", PYTHONS)
def test_pins_lie_in_the_ranges(python):
    pinned = pins(python)
    for name, wanted in requirements(*EXTRAS, "dev").items():
        for requirement in wanted:
            environment = default_environment() | {"python_version": python}
            if requirement.marker and not requirement.marker.evaluate(environment):
                continue
            assert name in pinned, f"constraints.txt has no {name} for Python {python}"
            assert requirement.specifier.contains(pinned[name]), (
                f"constraints.txt pins {name} {pinned[name]}, pyproject.toml wants {requirement}"
            )


def test_environment_is_well_formed():
    assert ENVIRONMENT["name"] == PROJECT["name"]
    assert ENVIRONMENT["channels"] == ["conda-forge"]
    names = [requirement.name for requirement in conda_requirements()]
    assert len(names) == len(set(names)), "an entry stands twice in environment.yml"
    pip = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict)]
    assert pip == [{"pip": ["-e ."]}], "pip installs this folder only; everything else comes from conda-forge"


def test_environment_agrees_with_pyproject():
    have = {requirement.name: requirement.specifier for requirement in conda_requirements()}
    assert str(have.pop("python")) == PROJECT["requires-python"]
    assert str(have.pop("pip")) == ""
    want = {
        CONDA_NAMES.get(name, name): found[0].specifier
        for name, found in requirements(*EXTRAS).items()
        if not found[0].marker  # back-ports for an old Python; conda takes a new one
    }
    assert have == want


def test_environment_agrees_with_constraints():
    index_names = {conda: index for index, conda in CONDA_NAMES.items()}
    pinned = pins("3.11")
    for requirement in conda_requirements():
        if requirement.name in ("python", "pip"):
            continue
        name = canonicalize_name(index_names.get(requirement.name, requirement.name))
        assert requirement.specifier.contains(pinned[name]), f"{requirement} excludes the tested {pinned[name]}"


def test_extras_are_all_known_here():
    assert {*EXTRAS, "dev"} == set(PROJECT["optional-dependencies"])
    for extra, texts in PROJECT["optional-dependencies"].items():
        for requirement in map(Requirement, texts):
            if requirement.name == "atslib":
                assert requirement.extras <= set(EXTRAS), f"[{extra}] asks for an extra that there is not: {requirement}"


def test_an_extra_that_a_message_names_has_what_is_missing():
    from atslib.data.files import _EXTRAS

    for module, extra in _EXTRAS.items():
        assert {"PIL": "pillow"}.get(module, module) in requirements(extra), f"[{extra}] brings no {module}"
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "atslib").rglob("*.py")]
    named = {extra for text in sources for group in re.findall(r"atslib\[([\w,]+)\]", text) for extra in group.split(",")}
    assert {"data", "tables", "slides"} - named <= {"data"}  # which is put together
    assert named <= set(EXTRAS)


def test_pictures_and_tables_have_extras_of_their_own():
    assert set(requirements("plots")) - set(requirements()) == {"matplotlib", "ipython"}  # plots.table shows Markdown
    assert set(requirements("tables")) - set(requirements()) == {"pandas"}
    assert "ipywidgets" in requirements("widgets")
    assert any(Requirement(text).extras == {"plots"} for text in PROJECT["optional-dependencies"]["widgets"])


def test_one_version():
    import atslib

    assert PROJECT["version"] == atslib.__version__ == CITATION["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d[\w.]*)\]", changelog, re.MULTILINE)
    assert not released or released[0] == PROJECT["version"], "the newest release in CHANGELOG.md is another one"


def test_run_time_needs_little():
    """A GPU machine without a network has these and no more."""
    assert set(requirements()) == {"torch", "numpy", "tqdm", "safetensors", "jaxtyping", "filelock"}  # torch needs it


def test_import_is_light():
    """`import atslib` loads nothing that only pictures, tables or downloads need."""
    heavy = "matplotlib pandas seaborn ipywidgets IPython scipy PIL pooch platformdirs sympy lightning_fabric"
    code = f"""
import sys
import torch
with_torch = set(sys.modules)
import atslib
import atslib.experiments.__main__
print(*sorted(set({heavy.split()!r}) & (set(sys.modules) - with_torch)))
"""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.split() == []


def built(kind, folder, source=ROOT):
    """The wheel or sdist of a folder, made as pip makes it."""
    pytest.importorskip("hatchling")
    build = f"from hatchling.build import build_{kind}; import sys; print(build_{kind}(sys.argv[1]))"
    outcome = subprocess.run([sys.executable, "-c", build, str(folder)], cwd=source, capture_output=True, text=True, check=True)
    return folder / outcome.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built("wheel", tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_the_library_and_its_digits(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    tracked = []
    if shutil.which("git"):
        tracked = subprocess.run(["git", "ls-files", "atslib"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    wanted = set(tracked) or {
        str(path.relative_to(ROOT))
        for path in (ROOT / "atslib").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= packed, f"not in the wheel: {sorted(wanted - packed)}"
    assert any(name.startswith("atslib/data/digits/") for name in packed), "the digits are not in the wheel"
    assert all(name.startswith(("atslib/", "atslib-")) for name in packed), "the wheel holds more than the library"
    assert wheel.stat().st_size < 4_000_000


def test_wheel_says_under_which_licences_its_parts_are(wheel):
    """The digits are not under the library's own."""
    with zipfile.ZipFile(wheel) as packed:
        (about,) = (name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        said = message_from_bytes(packed.read(about))
        assert said["License-Expression"] == "MIT AND CC-BY-SA-3.0"
        for name in said.get_all("License-File"):
            assert packed.read(about.replace("METADATA", f"licenses/{name}")) == (ROOT / name).read_bytes()
    assert "atslib/data/digits/NOTICE" in said.get_all("License-File")
    (backend,) = TABLES["build-system"]["requires"]
    assert not Requirement(backend).specifier.contains("1.26.3")  # writes neither of the two


def test_sdist_holds_what_makes_the_same_wheel_and_no_tests_that_cannot_run(wheel, tmp_path):
    with tarfile.open(built("sdist", tmp_path)) as packed:
        packed.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"atslib"}
    again = built("wheel", tmp_path, folder)
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize("path", sorted((ROOT / "atslib").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_is_known_in_its_file(path):
    """Annotations are not evaluated, and the linter does not look for names in them: shapes in quotes are none."""
    known, used = {*dir(builtins), "__file__", "__path__"}, {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used.setdefault(node.id, node.lineno)
        elif isinstance(node, ast.Name):
            known.add(node.id)
        elif isinstance(node, ast.alias):
            known.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
            known.add(node.name)
    assert not {name: line for name, line in used.items() if name not in known}


def test_readme_is_whole_on_a_page_that_lies_elsewhere():
    """On the package index nothing lies beside it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    places = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(places) > 5 and all(place.startswith("https://") for place in places)
    home = PROJECT["urls"]["Homepage"]
    bases = (f"{home}/blob/main/", f"{home.replace('github.com', 'raw.githubusercontent.com')}/main/")
    ours = [place.removeprefix(base) for place in places for base in bases if place.startswith(base)]
    assert len(ours) == 6
    for place in ours:
        assert (ROOT / place).is_file(), f"README.md links to {place}, which is not there"


def readme_examples():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_readme_example_of_ones_own_images_runs(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        for colour in ("red", "green"):
            (tmp_path / part / colour).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (420 + number, 430), colour).save(tmp_path / part / colour / f"{number}.png")
    first, second = readme_examples()
    imports = "".join(line + "\n" for line in first.splitlines() if "import" in line)
    assert "epochs=20" in second
    program = imports + second.replace("epochs=20", "epochs=1")
    outcome = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    assert "test error" in outcome.stdout and (tmp_path / "model.safetensors").is_file()


def test_modules_are_there_without_an_import_of_their_own():
    here = {module.name for module in pkgutil.iter_modules(atslib.__path__)}
    assert here <= set(dir(atslib)) and all(getattr(atslib, name).__name__ == f"atslib.{name}" for name in here)
    asked = "atslib.data.ImagePyramid.__name__, atslib.prediction.predict.__name__, 'training' in dir(atslib)"
    program = f"import atslib; print({asked})"
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert outcome.stdout.split() == ["ImagePyramid", "predict", "True"]
    with pytest.raises(AttributeError, match="module 'atslib' has no attribute 'dada'"):
        atslib.dada  # noqa: B018


def test_readme_example_runs():
    example, _ = readme_examples()
    outcome = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    shapes = re.findall(r"\[([\d, ]+)\]", outcome.stdout)
    assert re.findall(r"\(([\d, ]+)\)", example.splitlines()[-1]) == shapes, "the comment says what is printed"
