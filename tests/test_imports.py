"""Imports go one way, and what must not need torch does not."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import undistill

ROOT = Path(undistill.__file__).parent
LAYERS = [
    {
        "threat_model",
        "types",
        "registry",
        "plugins",
        "errors",
        "seeds",
        "statistics",
        "files",
        "progress",
        "threads",
        "ranks",
    },
    {"losses", "data", "models"},
    {"training"},
    {"oracle"},
    {"defenses", "attacks"},
    {"experiments"},
    {"auditing", "paper"},
    {"reporting"},
    {"cli"},
]
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
MODULES = {
    ".".join(("undistill", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
AUDITED = {
    *("suite", "evidence", "case", "verdict", "flags", "precision", "result", "analyze", "text"),
}
"""The parts of an audit that read cells, and plan them."""
TORCHLESS = sorted(
    name
    for name in MODULES
    if name
    in (
        "undistill",
        "undistill.threat_model",
        "undistill.errors",
        "undistill.registry",
        "undistill.plugins",
        "undistill.files",
        "undistill.statistics",
        "undistill.progress",
        "undistill.threads",
        "undistill.experiments.cell",
        "undistill.experiments.evidence",
        "undistill.experiments.plan",
        "undistill.experiments.ranking",
    )
    or name in {f"undistill.auditing.{part}" for part in AUDITED}
    or name in {f"undistill.paper.{part}" for part in ("experiments", "plan", "published")}
    or name.startswith("undistill.reporting")
)


def imported(module: str, tree: ast.AST, *, always: bool) -> Iterator[str]:
    """Modules that `tree` imports; with `always`, those alone that every import of it brings along."""
    for node in ast.iter_child_nodes(tree):
        if always and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            source = node.module or ""
            yield source
            yield from (f"{source}.{a.name}" for a in node.names if f"{source}.{a.name}" in MODULES)
        else:
            yield from imported(module, node, always=always)


@cache
def imports_of(module: str, *, always: bool = False) -> frozenset[str]:
    return frozenset(imported(module, ast.parse(MODULES[module].read_text()), always=always))


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_one_way(module: str) -> None:
    own = part_of(module)
    if own in ("", "__main__"):
        return
    above = [
        m for m in imports_of(module) if part_of(m) and m.startswith("undistill.") and RANK[part_of(m)] > RANK[own]
    ]
    assert above == []


@pytest.mark.parametrize("module", sorted(m for m in MODULES if part_of(m) == "attacks"))
def test_attacks_never_import_defenses(module: str) -> None:
    assert not {m for m in imports_of(module) if part_of(m) == "defenses"}


@pytest.mark.parametrize("module", sorted(m for m in MODULES if part_of(m) == "defenses"))
def test_defenses_never_import_attacks(module: str) -> None:
    assert not {m for m in imports_of(module) if part_of(m) == "attacks"}


@pytest.mark.parametrize("module", TORCHLESS)
def test_torch_is_not_written_where_it_is_banned(module: str) -> None:
    assert not {m for m in imports_of(module) if m.split(".")[0] == "torch"}


@pytest.mark.parametrize("module", TORCHLESS)
def test_torch_is_not_dragged_in_where_it_is_banned(module: str) -> None:
    waiting, seen = [module], set()
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        assert name.split(".")[0] != "torch", f"{module} brings torch along through {sorted(seen)}"
        if name in MODULES:
            waiting += [*imports_of(name, always=True), *(p for p in [name.rpartition(".")[0]] if p in MODULES)]


def test_what_reads_and_draws_results_runs_without_torch() -> None:
    names = ("undistill", "undistill.threat_model", "undistill.experiments.cell", "undistill.reporting.report")
    more = ("undistill.reporting.audit.compare", "undistill.reporting.paper.page")
    code = f"import sys, {', '.join((*names, *more))}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_part_has_a_layer() -> None:
    parts = {part_of(module) for module in MODULES} - {"", "__main__"}
    assert parts <= RANK.keys()


def test_every_public_verb_is_there() -> None:
    assert all(getattr(undistill, name) is not None for name in undistill.__all__)
    assert set(undistill.__all__) <= set(dir(undistill))


def test_a_verb_nobody_wrote_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'steal'"):
        undistill.steal  # noqa: B018


def test_no_module_takes_the_place_of_a_public_name() -> None:
    """A package's submodules become its attributes when they are imported: none may be called as a verb is."""
    modules = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert modules & set(undistill.__all__) == {"losses", "models"}
