"""What the docs show is what there is: files verbatim, commands that parse, code that runs, plugins that work."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from docs import make

from undistill import plugins
from undistill.attacks.base import ATTACKS
from undistill.auditing.suite import suite
from undistill.cli.app import app
from undistill.cli.catalog import catalog
from undistill.data.image_set import Splits
from undistill.defenses.base import DEFENSES
from undistill.errors import UsageError
from undistill.models import MODELS, build
from undistill.oracle import BlackBox
from undistill.oracle.output_defense import ANSWER_DEFENSES, chain
from undistill.oracle.victim import Victim
from undistill.registry import Registry
from undistill.threat_model import Access, ThreatModel
from undistill.training.recipe import read
from whole.commands import Shell

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
PLUGINS = sorted((ROOT / "examples" / "plugins").glob("*.py"))
FLAGS = [text for path in PLUGINS for text in ("--plugin", str(path))]
SMALL = ("-s", "training.epochs=1", "-q", "--json")


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [block for language, block in fences if language in languages]


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of each `undistill …` in the page's shell blocks."""
    for block in blocks(page, "sh", "bash", "console", ""):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("undistill "):
                yield shlex.split(line, comments=True)[1:]


SHOWN = [*PAGES, ROOT / "README.md"]
COMMANDS = [pytest.param(words, id=f"{page.stem}-{' '.join(words)[:60]}") for page in SHOWN for words in commands(page)]


@pytest.fixture(scope="module")
def known() -> Iterator[None]:
    """Plugins may be loaded; afterwards nobody knows them."""
    catalog()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plugins.REMEMBERED, plugins.VARIABLE, [])
        patch.setitem(plugins.REMEMBERED, plugins.TRUSTED, [])
        for registry in Registry.all.values():
            patch.setattr(registry, "_classes", dict(registry._classes))
        yield
    for name in [name for name in sys.modules if name.startswith("undistill_plugin_")]:
        del sys.modules[name]


# -- docs ---------------------------------------------------------------------------------------------------------------


def parsed(words: list[str]) -> dict[str, Any]:
    """What the shell would hand to the verb, or to the part of a verb that is named: `audit cell`; `audit` alone is `audit all`."""
    group: Any = typer.main.get_command(app)
    name, *rest = words
    verb = group.commands[name]
    if hasattr(verb, "commands"):
        name, *rest = rest if rest[:1] and rest[0] in verb.commands else [verb.default, *rest]
        verb = verb.commands[name]
    return dict(verb.make_context(name, rest).params)


def asked(given: dict[str, Any]) -> None:
    """Try what an audit is asked for; UsageError for what there is not."""
    suite(given["suite"])
    card = given["threat_model"]
    base = ThreatModel.parse(f"probs/{card}/random" if card.count("/") == 1 else card)
    for serving in (given["access"] or "probs").split(","):
        base.served(serving)
    for count in filter(None, (given["queries"] or "").split(",")):
        base.model_copy(update={"questions": int(count)})
    chain(given["output_defense"] or ())
    for name in given["extra_attack"] or ():
        ATTACKS.find(name)
    for student in filter(None, (given["students"] or "").split(",")):
        MODELS.find(re.sub(r":[\d.]+$", "", student))
    if given["method"] is not None:
        assert given["method"] in DEFENSES.classes() | ANSWER_DEFENSES.classes()
    elif given["model"] is None:
        raise UsageError("audit what?")


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_in_the_docs_parses_and_names_what_there_is(words: list[str], known: None) -> None:
    given = parsed(words)
    for path in PLUGINS:
        plugins.load_plugin(path)
    named: dict[str, tuple[Registry[Any], str]] = {
        "train": (MODELS, "model"),
        "protect": (DEFENSES, "defense"),
        "attack": (ATTACKS, "attack"),
    }
    if words[0] == "audit" and "suite" in given:
        asked(given)
    if words[0] not in named:
        return
    kind, option = named[words[0]]
    for registry, name in ((kind, given[option]), (MODELS, given.get("student"))):
        if name is not None:
            registry.find(name)
    config = given["config"]
    read("digits" if config is None or config.endswith(".yaml") else config, given["sets"] or [])
    ThreatModel.parse(given.get("threat_model", "paper"))
    if given.get("outputs") is not None:
        Access.parse(given["outputs"])


def test_a_wrong_option_in_the_docs_would_have_been_noticed() -> None:
    with pytest.raises(Exception, match="--colour"):
        parsed(["train", "--colour", "red", "-o", "out"])


@pytest.mark.parametrize("words", [["--colour", "-o", "out"], ["cell", "DIR", "--suite", "quick"]], ids=" ".join)
def test_a_wrong_option_of_an_audit_would_have_been_noticed(words: list[str]) -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(["audit", *words])


WRONG = {"--serve": "top0", "--suite": "slow", "--behind": "no", "--card": "a/b", "--also": "no", "--students": "no:1"}


@pytest.mark.parametrize(("option", "value"), WRONG.items())
def test_a_wrong_value_for_an_audit_would_have_been_noticed(option: str, value: str) -> None:
    with pytest.raises(UsageError):
        asked(parsed(["audit", "MODEL", option, value, "-o", "out"]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_in_the_docs_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["models", "adding", "threat_model"])
def test_the_docs_promise_nothing(name: str) -> None:
    shown = (ROOT / "docs" / f"{name}.md").read_text()
    assert not re.search(r"\b(undistillable|secure|safe|proves)\b", shown, re.IGNORECASE)


def test_adding_shows_the_plugins_verbatim() -> None:
    shown = blocks(ROOT / "docs" / "adding.md", "python")
    assert sorted(shown) == sorted(path.read_text() for path in PLUGINS)


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.name)
def test_plugins_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 80


# -- models.md ----------------------------------------------------------------------------------------------------------


def test_the_table_of_networks_is_true() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| (\d+) \|", (ROOT / "docs" / "models.md").read_text(), re.MULTILINE)
    own = {name for name, cls in MODELS.classes().items() if cls.__module__.startswith("undistill.models.")}
    assert {name for name, _, _ in rows} == own
    for name, weights, classes in rows:
        with torch.device("meta"):
            network = build(name, num_classes=int(classes))
        assert f"{sum(p.numel() for p in network.parameters()):,}" == weights, name
        assert weights in (MODELS.find(name).__doc__ or ""), name


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (3, None),
        (4, ("class 1", "class 0", "class 2", "class 3")),
        (4, ("class 0", "class 1", "class 2", "wolf")),
    ],
)
def test_refusals_read_as_the_docs_say(splits: Splits, count: int, names: tuple[str, ...] | None) -> None:
    box = BlackBox(lambda _: None, Access.LABEL, count, "an API")
    with pytest.raises(UsageError) as refusal:
        Victim(box, names, "0").check(splits)
    assert f"{refusal.value}\n" in blocks(ROOT / "docs" / "models.md", "text")[0]


class Service(BaseHTTPRequestHandler):
    """Ten equal probabilities for any image."""

    def do_POST(self) -> None:
        assert self.rfile.read(int(self.headers["Content-Length"]))[:4] == b"\x89PNG"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"probabilities": [0.1] * 10}).encode())

    def log_message(self, *_: Any) -> None:
        """Not a word."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The API that the docs ask, answering on this machine."""
    server = HTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("MY_API", f"http://127.0.0.1:{server.server_port}/classify")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: None) -> SimpleNamespace:
    """A folder with the files that models.md names; `rest` is the code that is no file."""
    monkeypatch.chdir(tmp_path)
    code = [(re.match(r"# (\w+\.py)\n", block), block) for block in blocks(ROOT / "docs" / "models.md", "python")]
    for name, block in code:
        if name is not None:
            Path(name[1]).write_text(block)
    return SimpleNamespace(rest=[block for name, block in code if name is None])


def run(block: str) -> None:
    """Run code of the docs."""
    exec(compile(block, "docs", "exec"), {"__name__": "docs"})


ASK = ("--data", "digits", "--unseen", "--card", "probs/unlabelled/fresh/random/20", *SMALL)
FEW = ("-s", "data.test=40")


def test_a_function_that_answers_is_attacked_as_the_docs_say(here: Any, service: None, shell: Shell) -> None:
    first = shell("attack", "my_api.py:predict", "--answers", "probs", *ASK, *FEW, "-o", "first")
    assert first.code == 0, first.err
    assert json.loads(first.out)["queries"] == 20
    again = shell("attack", "first/answers.parquet", *ASK, *FEW, "--with", "label-only", "-o", "again")
    assert again.code == 0, again.err


def test_the_code_in_models_md_runs(here: Any, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    for block in here.rest:
        run(block)
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["normal", "my API"]
    assert Path("weights.safetensors").is_file()
    outcome = shell("attack", "answers.parquet", *ASK, "--accept-accuracy", "-o", "out")
    assert outcome.code == 0, outcome.err


def test_a_factory_is_imported_attacked_and_hardened_as_the_docs_say(here: Any, shell: Shell) -> None:
    from undistill.plugins import import_file

    torch.save(import_file(Path("my_model.py").resolve()).make(10, 1, 8).state_dict(), "weights.pt")
    asked = (
        "import",
        "weights.pt",
        "--model",
        "my_model.py:make",
        "--size",
        8,
        "--channels",
        1,
        "--mean",
        "none",
        "-o",
        "imported",
    )
    assert shell(*asked).code == 0
    go_on = "--accept-accuracy"  # it was never trained
    outcome = shell("attack", "my_model.py:trained", *ASK, go_on, "-o", "thief")
    assert outcome.code == 0, outcome.err
    hardened = ("--with", "nasty-head", *SMALL, go_on)
    outcome = shell("protect", "my_model.py:trained", "--data", "digits", *hardened, "-o", "twin")
    assert outcome.code == 0, outcome.err
    outcome = shell(
        "train", "--data", "digits", "--model", "my_model.py:make", "--weights", "weights.pt", *SMALL, "-o", "tuned"
    )
    assert outcome.code == 0, outcome.err


# -- adding.md ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def toys(known: None, shell: Shell, tmp_path: Path) -> Path:
    """A run of `train` with all the plugins."""
    views = ("-s", "data.views=[{name: toy-view, share: 0.25}]", "-s", "model.width=0.25")
    outcome = shell("train", *FLAGS, "--model", "toy", "--data", "toy-data", *views, *SMALL, "-o", tmp_path / "toys")
    assert outcome.code == 0, outcome.err
    return tmp_path / "toys"


def test_plugins_are_listed(known: None, shell: Shell) -> None:
    listed = json.loads(shell("list", *FLAGS, "--json").out)
    found = {
        (kind, entry["name"])
        for kind, entries in listed.items()
        for entry in entries
        if entry["name"].startswith("toy")
    }
    kinds = ("data", "view", "defense", "attack")
    others = {("output-defense", "toy-answer-defense"), ("model", "toy")}
    assert found == {(kind, f"toy-{kind}") for kind in kinds} | others


def test_plugins_train_harden_and_steal(toys: Path, shell: Shell, tmp_path: Path) -> None:
    hardened, attacker = tmp_path / "hardened", tmp_path / "thief"
    outcome = shell("protect", toys, *FLAGS, "--with", "toy-defense", *SMALL, "-o", hardened)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["defense"] == {"name": "toy-defense", "lie": 0.3}
    student = ("--student", "toy", "-s", "student.width=0.25")
    outcome = shell("attack", hardened, *FLAGS, "--with", "toy-attack", *student, *SMALL, "-o", attacker)
    assert outcome.code == 0, outcome.err
    cell = json.loads(outcome.out)
    assert (cell["attack"], cell["victim"], cell["student"]) == ("toy-attack", "toy-defense", "toy")


def test_a_lie_of_nothing_is_ordinary_training(known: None) -> None:
    module = plugins.load_plugin(ROOT / "examples" / "plugins" / "toy_defense.py")
    from undistill.training.objectives import CrossEntropy
    from undistill.types import Batch

    rng = torch.Generator().manual_seed(0)
    batch = Batch(torch.rand(6, 5, generator=rng), torch.arange(6) % 5, torch.arange(6), 0)
    honest, lying = (module.LabelAndLie(lie)(torch.nn.Identity(), batch)["loss"] for lie in (0.0, 0.3))
    torch.testing.assert_close(honest, CrossEntropy()(torch.nn.Identity(), batch)["loss"])
    assert lying > honest or lying < honest


def test_a_power_of_one_changes_no_answer_and_a_higher_one_keeps_the_order(known: None) -> None:
    plugins.load_plugin(ROOT / "examples" / "plugins" / "toy_answer_defense.py")
    rng = torch.Generator().manual_seed(0)
    probs_BC = torch.cat([(3 * torch.randn(20, 5, generator=rng)).softmax(dim=1), torch.eye(5)]).double()
    once, hard = (ANSWER_DEFENSES.make({"name": "toy-answer-defense", "power": power}) for power in (1, 4))
    torch.testing.assert_close(once.answer(probs_BC, rng), probs_BC)
    sent_BC = hard.answer(probs_BC, rng)
    assert sent_BC.dtype == torch.float64
    torch.testing.assert_close(sent_BC, (4 * probs_BC.log()).softmax(dim=1))
    torch.testing.assert_close(sent_BC[:3], hard.answer(probs_BC[:3], rng))
    assert torch.equal(sent_BC[:20].argsort(dim=1), probs_BC[:20].argsort(dim=1))


def test_an_answer_side_plugin_is_planned_and_its_answers_are_measured(
    toys: Path, shell: Shell, tmp_path: Path
) -> None:
    behind = ("--behind", "toy-answer-defense power=8", "--questions", "20", "--students", "toy:0.25")
    planned = shell(
        "audit", "plan", toys, *FLAGS, *behind, "--also", "toy-attack", "-q", "--json", "-o", tmp_path / "a"
    )
    assert planned.code == 0, planned.err
    plan = json.loads(planned.out)
    assert [subject["behind"] for subject in plan["subjects"]] == [[{"name": "toy-answer-defense", "power": 8.0}], []]
    served = [
        number for number, cell in enumerate(plan["cells"]) if cell["role"] == "served" and "probs" in cell["card"]
    ]
    for number in served:
        assert shell("audit", "cell", tmp_path / "a", "--index", number, *FLAGS, "-q").code == 0
    cells = [json.loads(path.read_text()) for path in (tmp_path / "a" / "cells").glob("*.json")]
    assert len(cells) == len(served) == 2
    assert len({cell["accuracy"] for cell in cells}) == 1
    assert len({cell["nll"] for cell in cells}) == 2


@pytest.mark.slow
def test_plugins_pass_the_contract_tests() -> None:
    paths = ["tests/test_registry.py", "tests/attacks", "tests/models/test_models.py", "tests/data/test_views.py"]
    environment = os.environ | {plugins.VARIABLE: "\n".join(map(str, PLUGINS))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *paths, "-k", "toy"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int((re.search(r"(\d+) passed", done.stdout) or [""])[1]) > 40


def test_an_installed_plugin_is_found_by_its_entry_point(tmp_path: Path) -> None:
    shown = tomllib.loads(blocks(ROOT / "docs" / "adding.md", "toml")[0])["project"]
    about = tmp_path / f"{shown['name'].replace('-', '_')}-{shown['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {shown['name']}\nVersion: {shown['version']}\n")
    (entry,) = shown["entry-points"][plugins.GROUP].items()
    (about / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{entry[0]} = {entry[1]}\n")
    package, _, module = entry[1].partition(".")
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    (tmp_path / package / f"{module}.py").write_text((ROOT / "examples" / "plugins" / "toy_model.py").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "undistill", "list", "model"],
        env=os.environ | {"PYTHONPATH": str(tmp_path), plugins.VARIABLE: ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\n  toy  " in done.stdout


@pytest.mark.parametrize("page", make.BLOCKS)
def test_every_generated_block_is_what_the_evidence_says(page: str) -> None:
    assert make.made(page) == (ROOT / page).read_text()
    assert (ROOT / page).read_text().count("|---") + (ROOT / page).read_text().count("```") > 1
