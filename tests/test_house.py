"""The house, read from its source: imports point downward, names stand where they belong, files stay small."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from smp_ray.families.registry import BUILT_IN, families
from smp_ray.pipeline import STAGES

ROOT = Path(__file__).parents[1] / "smp_ray"
FILES = sorted(ROOT.rglob("*.py"))
JOBS = sorted((ROOT.parent / "jobs").rglob("*.py"))
TESTS = sorted((ROOT.parent / "tests").rglob("*.py"))
#: From the ground up; what stands on one floor does not import each other.
FLOORS = (
    ("__init__", "errors", "interrupt", "plugins", "schema", "section", "progress"),
    ("models", "store"),
    ("demo", "families"),
    ("sources",),
    ("config",),
    ("machine", "resources", "nodes", "fetch", "starting_config"),
    ("ray_session",),
    ("run",),
    ("stage",),
    ("features", "evaluation"),
    ("analysis",),
    ("training",),
    ("predictor",),
    ("report",),
    ("upkeep",),
    ("pipeline",),
    ("operations", "shell", "score"),
    ("asking",),
    ("cli",),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
#: Names that mean the same thing in every room.
SAME = ("__init__.py", "base.py", "registry.py")


def room(path: Path) -> str:
    """The package or top-level module that a file is in."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def shown(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in FILES:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Modules of smp_ray that a file imports; those that only type checkers see are left out."""
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "smp_ray":
            inside = (node.module or "").split(".")[1:]
            yield from ((node, inside[0] if inside else alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node, alias.name.split(".")[1]) for alias in node.names if alias.name.startswith("smp_ray."))


def texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """Texts of a file that are no docstrings."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node


def called(tree: ast.Module) -> set[int]:
    """Functions and methods that are called: a section of the config is not (but an array's clip is)."""
    return {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_every_room_has_its_floor() -> None:
    assert {room(path) for path in FILES} == set(FLOOR)


def test_imports_point_downward() -> None:
    wrong = [
        f"{shown(path, node)} imports {name}"
        for path, tree in trees()
        for node, name in imports(tree)
        if name in FLOOR and name != room(path) and FLOOR[name] >= FLOOR[room(path)] and name != "__version__"
    ]
    assert wrong == []


def test_families_are_named_in_their_own_files_only() -> None:
    built_in = [family for family in families().values() if f"{family.__module__}:{family.__name__}" in BUILT_IN]
    words = {word for family in built_in for word in (family.name, *(field.name for field in family.fields(1)))}
    pattern = re.compile(rf"(?<![A-Za-z_</])({'|'.join(sorted(words))})(?![A-Za-z])")
    attributes = {word for family in built_in for word in (family.name, family.key())}
    wrong = []
    for path, tree in trees():
        if room(path) in ("families", "demo"):
            continue
        wrong += [f"{shown(path, node)}: {node.value!r}" for node in texts(tree) if pattern.search(str(node.value))]
        wrong += [
            f"{shown(path, node)}: {ast.unparse(node)}"
            for node in ast.walk(tree)
            if room(path) != "models"  # they know no configuration, but libraries have attributes of such names
            if isinstance(node, ast.Attribute) and node.attr in attributes and id(node) not in called(tree)
        ]
    assert wrong == []


def test_stages_are_named_in_the_pipeline_and_where_they_are_made_only() -> None:
    makers: dict[str, set[str]] = {}
    for stage in STAGES:
        module = stage.make.partition(":")[0].removeprefix("smp_ray.")
        own = {module, type(stage).__module__.removeprefix("smp_ray.")}
        makers[stage.name] = {f"{name.replace('.', '/')}.py" for name in own} | {
            f"{module.replace('.', '/')}/__init__.py"
        }
    makers["features"].add("store/reader.py")  # the store's folder is called so, too
    # A function of this name, and what the bar is called.
    makers["ingest"] |= {"sources/__init__.py", "sources/ingest.py", "sources/piece.py"}
    for name in ("ingest", "features"):
        makers[name].add("store/workspace.py")  # by which a workspace of the first format is known
    wrong = [
        f"{shown(path, node)}: {node.value!r}"
        for path, tree in trees()
        for node in texts(tree)
        if room(path) != "demo"  # its settings are a configuration
        if node.value in makers and str(path.relative_to(ROOT)) not in {"pipeline.py", *makers[str(node.value)]}
    ]
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_long(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 60] == []


def test_every_module_has_tests_of_its_name_or_is_named_in_some() -> None:
    own = {path.name.removeprefix("test_") for path in TESTS if path.name.startswith("test_")}
    named: set[str] = set()
    for path in TESTS:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # A docstring says what is tested through others, as `room/module.py`.
        named |= {
            f"smp_ray.{name.replace('/', '.')}" for name in re.findall(r"`([\w/]+)\.py`", ast.get_docstring(tree) or "")
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
    untested = [
        str(path.relative_to(ROOT))
        for path in FILES
        if path.name != "__init__.py" and path.name not in own
        if ".".join(path.relative_to(ROOT.parent).with_suffix("").parts) not in named
    ]
    assert untested == []


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]

    def names(lines: list[str]) -> set[str]:
        return {re.split(r"[\[<>=~! ]", line)[0].lower().replace("_", "-") for line in lines}

    shipped = names([*project["dependencies"], *extras["gguf"]])
    distributions = packages_distributions()
    wrong = set()
    for path in (*FILES, *JOBS):
        declared = shipped | names(extras["dev"]) if path in JOBS else shipped
        own = {"smp_ray", "jobs", "cluster"} if path in JOBS else {"smp_ray"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [str(node.module)]
            for name in {module.split(".")[0] for module in modules} - sys.stdlib_module_names - own:
                if not {found.lower().replace("_", "-") for found in distributions.get(name, [name])} & declared:
                    wrong.add(f"{path.name} imports {name}")
    assert wrong == set()


@pytest.mark.parametrize("path", [*FILES, *JOBS], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_is_cited_ships(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "../shared" not in text
    pages = {page.name for folder in (ROOT.parent, ROOT.parent / "docs") for page in folder.glob("*.md")}
    made = {"ablation.md", "README.md"}  # what the ablation writes; a model's own page
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docs = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    comments = re.findall(r"#.*", text)
    assert set(re.findall(r"[\w-]+\.md\b", "\n".join([*docs, *comments]))) <= pages | made


def test_no_two_files_of_one_name() -> None:
    counts = Counter(path.name for path in FILES if path.name not in SAME)
    assert [name for name, count in counts.items() if count > 1] == []


def test_models_stand_on_torch_alone() -> None:
    wrong = [
        f"{shown(path, node)} imports {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name}"
        for path, tree in trees()
        if room(path) == "models"
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "ray" for alias in node.names))
    ]
    assert wrong == []
