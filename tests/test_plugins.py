"""Components of users' own: a file or an installed package is known everywhere, also in workers, and fails in a sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from undistill import plugins
from undistill.attacks.base import ATTACKS
from undistill.data import load
from undistill.data.augment import VIEWS
from undistill.errors import UsageError
from undistill.experiments.executors import Job, run_jobs
from undistill.registry import Registry
from undistill.threat_model import Access

TOY = """
from typing import Literal

from undistill.data.augment import VIEWS, View


@VIEWS.register
class {cls}(View):
    '''Leave it.'''

    name: Literal["{name}"] = "{name}"
"""


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All as it was behind each test: names, environment, imported files."""
    monkeypatch.setitem(plugins.REMEMBERED, plugins.VARIABLE, [])
    monkeypatch.setitem(plugins.REMEMBERED, plugins.TRUSTED, [])
    VIEWS.everything()
    ATTACKS.everything()
    before = {kind: dict(registry._classes) for kind, registry in Registry.all.items()}
    modules = set(sys.modules)
    yield
    for kind, classes in before.items():
        Registry.all[kind]._classes.clear()
        Registry.all[kind]._classes.update(classes)
    for name in set(sys.modules) - modules:
        if name.startswith(("undistill_plugin_", "toy_")):
            del sys.modules[name]
    plugins._installed.cache_clear()


def toy(path: Path, name: str = "toy-view", cls: str = "Toy") -> Path:
    path.write_text(TOY.format(name=name, cls=cls))
    return path


def test_a_files_components_are_found(tmp_path: Path) -> None:
    assert "toy-view" not in VIEWS.classes()
    plugins.load_plugin(toy(tmp_path / "toy.py"))
    assert VIEWS.make("toy-view").name == "toy-view"


def test_a_file_is_imported_once_a_process(tmp_path: Path) -> None:
    file = tmp_path / "counting.py"
    file.write_text(f"with open({str(tmp_path / 'count')!r}, 'a') as counted:\n    counted.write('x')\n")
    first = plugins.load_plugin(file)
    assert plugins.load_plugin(str(file)) is first
    plugins.load_all()
    assert (tmp_path / "count").read_text() == "x"


def test_two_files_of_one_name_are_two_plugins(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        plugins.load_plugin(toy(tmp_path / str(number) / "toy.py", f"toy-{number}"))
    assert {"toy-1", "toy-2"} <= VIEWS.classes().keys()


def test_a_relative_path_is_remembered_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(tmp_path / "toy.py")
    monkeypatch.chdir(tmp_path)
    plugins.load_plugin("toy.py")
    assert plugins._remembered(plugins.VARIABLE) == [str((tmp_path / "toy.py").resolve())]


def test_two_plugins_with_one_name_clash_in_a_sentence(tmp_path: Path) -> None:
    plugins.load_plugin(toy(tmp_path / "one.py"))
    with pytest.raises(UsageError, match=r"two\.py fails while it is imported: .*two views are called 'toy-view'$"):
        plugins.load_plugin(toy(tmp_path / "two.py", cls="Other"))
    assert plugins._remembered(plugins.VARIABLE) == [str((tmp_path / "one.py").resolve())]


def test_a_plugin_cannot_take_a_name_of_ours(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two views are called 'flip'"):
        plugins.load_plugin(toy(tmp_path / "flip.py", "flip"))
    assert VIEWS.make("flip").__class__.__module__ == "undistill.data.augment"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise RuntimeError('out of\\nluck')", r"fails while it is imported: RuntimeError: out of luck$"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'$"),
        ("def", "SyntaxError"),
        ("\0", "SyntaxError|null"),
    ],
)
def test_a_plugin_that_fails_is_named_in_a_sentence(tmp_path: Path, code: str, words: str) -> None:
    (tmp_path / "broken.py").write_text(code)
    for _ in range(2):  # a second time too: no half a module is left behind
        with pytest.raises(UsageError, match=words) as refused:
            plugins.load_plugin(tmp_path / "broken.py")
        assert "\n" not in str(refused.value)
        assert "broken.py" in str(refused.value)
    assert plugins._remembered(plugins.VARIABLE) == []


@pytest.mark.parametrize("name", ["no_such.py", "folder", "text.txt"])
def test_what_is_no_python_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(UsageError, match=f"there is no Python file at .*{name}"):
        plugins.load_plugin(tmp_path / name)


def known_here(*names: str) -> str:
    """A job: which of these views this process knows."""
    return f"{os.getpid()} {[name in VIEWS.classes() for name in names]}"


@pytest.mark.e2e
def test_worker_processes_know_the_plugins(tmp_path: Path) -> None:
    plugins.load_plugin(toy(tmp_path / "toy.py"))
    (line,) = run_jobs([Job("views", known_here, ("toy-view", "toy-none", "flip"))], 2)
    process, known = line.split(maxsplit=1)
    assert known == "[True, False, True]"
    assert int(process) != os.getpid()


# -- installed packages -------------------------------------------------------------------------------------------------


def installed(site: Path, code: str, value: str = "toy_installed") -> Path:
    """A distribution with an entry point, as pip leaves it."""
    (site / "toy_installed.py").parent.mkdir(exist_ok=True)
    (site / "toy_installed.py").write_text(code)
    about = site / "toy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{plugins.GROUP}]\ntoy = {value}\n")
    return site


def test_an_installed_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(installed(tmp_path / "site", TOY.format(name="toy-installed", cls="Installed")))
    plugins._installed.cache_clear()
    assert "toy-installed" in VIEWS.classes()


@pytest.mark.parametrize(
    ("code", "value", "words"),
    [
        ("1 / 0", "toy_installed", r"the installed plugin toy \(toy_installed\) fails: ZeroDivisionError"),
        ("", "toy_installed:absent", r"the installed plugin toy \(toy_installed:absent\) fails: AttributeError"),
        (TOY.format(name="flip", cls="Flip"), "toy_installed", "two views are called 'flip'"),
    ],
)
def test_an_installed_package_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, value: str, words: str
) -> None:
    monkeypatch.syspath_prepend(installed(tmp_path / "site", code, value))
    plugins._installed.cache_clear()
    with pytest.raises(UsageError, match=words) as refused:
        VIEWS.classes()
    assert "\n" not in str(refused.value)


# -- trust --------------------------------------------------------------------------------------------------------------


def test_a_name_is_trusted_once(tmp_path: Path) -> None:
    plugins.trust("os:getcwd")
    plugins.trust("os:getcwd")
    assert plugins._remembered(plugins.TRUSTED) == ["os:getcwd"]
    assert plugins.TRUSTED not in os.environ
    assert plugins.environment()[plugins.TRUSTED] == "os:getcwd"
    assert plugins.named("os:getcwd") is os.getcwd


@pytest.mark.parametrize("name", ["os:abort", "os:get", "os", "getcwd", "posix:getcwd", "os:getcwd ", ""])
def test_what_nobody_trusted_is_refused(name: str) -> None:
    plugins.trust("os:getcwd")
    with pytest.raises(UsageError, match="is code, and only a file asks for it"):
        plugins.named(name)


def test_a_plugins_attack_asks_no_more_than_it_says(tmp_path: Path) -> None:
    file = tmp_path / "attack.py"
    file.write_text(
        "from typing import ClassVar, Literal\n"
        "from undistill.threat_model import Access\n"
        "from undistill.attacks.base import ATTACKS, Attack\n\n\n"
        "@ATTACKS.register\nclass Toy(Attack):\n    '''Toy.'''\n\n"
        "    name: Literal['toy-attack'] = 'toy-attack'\n    needs: ClassVar[Access | None] = Access.LABEL\n"
    )
    plugins.load_plugin(file)
    assert ATTACKS.make("toy-attack").needs is Access.LABEL


def test_a_data_set_is_one_file() -> None:
    plugins.load_plugin(Path(__file__).parents[1] / "examples" / "plugins" / "toy_data.py")
    splits = load("toy-data")
    assert [len(part or ()) for part in (splits.train, splits.pool, splits.val, splits.test)] == [810, 400, 90, 500]
