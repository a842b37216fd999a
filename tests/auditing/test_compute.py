"""One cell of an audit: computed once, again where it no longer counts, and never by code or paths that only a plan names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auditing.made import MadeAudit, change, fail, keys, remove
from undistill import plugins
from undistill.attacks.base import ATTACKS
from undistill.attacks.kd import KD
from undistill.auditing import compute as computing
from undistill.auditing import making
from undistill.auditing.audit import Ready, prepare, run
from undistill.auditing.compute import AuditFolder, compute, plan_of, train_teacher
from undistill.auditing.config import AuditConfig
from undistill.data.image_set import Splits
from undistill.errors import Busy, NotFinite, RunError, UsageError
from undistill.experiments import plan as planned
from undistill.experiments.cell import Cell
from undistill.experiments.extraction import AttackConfig, Extraction, attack
from undistill.experiments.foreign import code_of
from undistill.experiments.plan import FILE, Plan, Planned, Subject
from undistill.experiments.runtime import Runtime
from undistill.files import locked, write_json
from undistill.models import Classifier
from undistill.oracle import BlackBox, write_answers
from undistill.oracle.victim import Victim, resolve
from undistill.threat_model import Access
from undistill.training.environment import choose_device
from undistill.training.recipe import Recipe, read

SMALL = AuditConfig(access=("probs", "label"), queries=(6,), students=("cnn:0.0625",), steps=4, seeds=1, delta=99.0)
SEARCHED = SMALL.but(suite="standard", serve=("label",))
Make = Callable[..., Ready]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines of a log instead of twenty; nobody is trusted."""
    monkeypatch.setattr(making, "EPOCHS", 2)
    monkeypatch.setitem(plugins.REMEMBERED, plugins.TRUSTED, [])


@pytest.fixture
def victim(make_model: Callable[..., Classifier], splits: Splits) -> Victim:
    """A network of which it is known that it never saw the pool."""
    return replace(resolve(make_model(seed=1)), fresh_pool=True, data_fingerprint=splits.fingerprint)


@pytest.fixture
def made(victim: Victim, splits: Splits, recipe: Recipe, tmp_path: Path) -> Make:
    """`made(request)`: an audit of one network whose plan is written and none of whose cells is computed."""

    def call(request: AuditConfig = SMALL, model: Any = victim) -> Ready:
        ready = prepare(model, splits, request, recipe=recipe, out=tmp_path / "audit", device="cpu", bank=None)
        planned.write(ready.folder.folder, ready.plan)
        return ready

    return call


def first(ready: Ready, **wanted: Any) -> Planned:
    return next(cell for cell in ready.plan.cells if all(getattr(cell, name) == it for name, it in wanted.items()))


def kd_of(ready: Ready) -> Planned:
    return next(cell for cell in ready.plan.cells if cell.attack.get("name") == "kd" and cell.role == "naive")


def rewrite(ready: Ready, **values: Any) -> Plan:
    """The plan with other values, on the disk too."""
    plan = ready.plan.model_copy(update=values)
    write_json(ready.folder.folder / FILE, plan.dump())
    return plan


# -- what a search chose ------------------------------------------------------------------------------------------------


def searched(ready: Ready, wanted: Planned, best: float) -> None:
    """Make up the search of an attacker of labels: the learning rate `best` scores highest."""
    assert wanted.choice is not None
    for number, key in enumerate(wanted.choice.among):
        cell = next(cell for cell in ready.plan.cells if cell.key == key)
        lr = cell.times.get("training.optimizer.lr", 1.0)
        training = {**cell.recipe["training"], "optimizer": {**cell.recipe["training"]["optimizer"], "lr": lr}}
        found = Cell(
            id=f"{number:016x}", victim="v", victim_id="", attack=cell.attack["name"], student="cnn",
            held_out=90.0 if lr == best else 50.0, recipe={"training": training}, phase="selection",
        )  # fmt: skip
        ready.folder.put(key, found, {})


def rate(cell: Cell | None) -> float:
    assert cell is not None
    return float(cell.recipe["training"]["optimizer"]["lr"])


def test_a_attacker_is_sent_again_when_its_search_says_otherwise(made: Make) -> None:
    ready = made(SEARCHED)
    wanted = first(ready, role="labels", side="defended")
    rates = sorted({c.times.get("training.optimizer.lr", 1.0) for c in ready.plan.cells if c.role == "search"})
    searched(ready, wanted, rates[0])
    compute(ready.folder, wanted.key)
    assert rate(ready.folder.valid(wanted, ready.plan)) == rates[0]
    searched(ready, wanted, rates[-1])
    assert ready.folder.valid(wanted) is None
    compute(ready.folder, wanted.key)
    assert rate(ready.folder.valid(wanted)) == rates[-1]
    before = ready.folder.marker(wanted.key).stat().st_mtime_ns
    compute(ready.folder, wanted.key)
    assert ready.folder.marker(wanted.key).stat().st_mtime_ns == before


def test_what_an_interrupted_attacker_left_is_not_gone_on_with_under_other_settings(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = made(SEARCHED)
    wanted = first(ready, role="labels", side="defended")
    searched(ready, wanted, 1.0)
    steal = KD.steal

    def interrupted(*given: Any, **named: Any) -> Iterator[Any]:
        for record in steal(*given, **named):
            yield record
            raise KeyboardInterrupt

    attacker = type(ATTACKS.make(next(c.attack for c in ready.plan.cells if c.label == wanted.label and c.attack)))
    with monkeypatch.context() as patch:
        steal = attacker.steal
        patch.setattr(attacker, "steal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compute(ready.folder, wanted.key)
    assert (ready.folder.work(wanted.key) / "checkpoint").is_dir()
    other = max(c.times.get("training.optimizer.lr", 1.0) for c in ready.plan.cells)
    searched(ready, wanted, other)
    assert compute(ready.folder, wanted.key).endswith("%")
    cell = ready.folder.valid(wanted)
    assert cell is not None
    assert rate(cell) == other
    assert [line["epoch"] for line in cell.curve] == [1, 2]
    assert not ready.folder.work(wanted.key).exists()


@pytest.fixture
def audit(tmp_path: Path) -> tuple[AuditFolder, Plan, MadeAudit]:
    """A made-up audit that is done."""
    audit = MadeAudit()
    return AuditFolder(tmp_path), audit.write(tmp_path), audit


def test_a_done_audit_stands(audit: tuple[AuditFolder, Plan, MadeAudit]) -> None:
    desk, plan, _ = audit
    assert desk.graph(plan).missing() == ()
    assert all(desk.valid(cell) is not None for cell in plan.cells)


def test_a_search_that_failed_is_done_again_with_all_that_rests_on_it(
    audit: tuple[AuditFolder, Plan, MadeAudit],
) -> None:
    desk, plan, _ = audit
    lost = keys(plan, role="search", side="undefended")[0]
    fail(desk.folder, lost)
    todo = {cell.key for cell in desk.graph(plan).missing()}
    rest = {cell.key for cell in plan.cells if cell.choice is not None and lost in cell.choice.among}
    assert rest
    assert todo == rest | {lost}
    assert [cell.key for cell in desk.graph(plan).missing()] == [cell.key for cell in plan.cells if cell.key in todo]


def test_what_was_never_searched_stands_nowhere(audit: tuple[AuditFolder, Plan, MadeAudit]) -> None:
    desk, plan, _ = audit
    lost = keys(plan, role="search", side="defended")[0]
    remove(desk.folder, lost)
    resting = next(cell for cell in plan.cells if cell.choice is not None and lost in cell.choice.among)
    assert desk.done(resting.key) is not None
    assert desk.valid(resting, plan) is None
    with pytest.raises(UsageError, match=f"needs 1 cells that are not computed, {lost} the first"):
        compute(desk, resting.key)


def test_another_winner_of_the_search_unseats_the_attackers_that_it_chose(
    audit: tuple[AuditFolder, Plan, MadeAudit],
) -> None:
    desk, plan, _ = audit
    for cell in plan.cells:
        if cell.role == "search" and cell.attack["name"] == "decoupled" and cell.side == "defended":
            change(desk.folder, cell.key, held_out=99.0)
    todo = [plan.cell(task.key) for task in desk.graph(plan).missing()]
    assert {(cell.side, cell.role) for cell in todo} == {("defended", "soft")}
    assert {cell.label for cell in todo} == {"soft, rank 1", "soft, rank 2"}


# -- failures -----------------------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[..., Any]:
    def steal(*_: Any, **__: Any) -> Any:
        raise error

    return steal


def test_an_attack_that_crashed_leaves_nothing_to_go_on_with_and_says_why(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = made()
    wanted, steal = kd_of(ready), KD.steal

    def late(*given: Any, **named: Any) -> Iterator[Any]:
        yield next(iter(steal(*given, **named)))
        raise ZeroDivisionError("no such\nluck")

    with monkeypatch.context() as patch:
        patch.setattr(KD, "steal", late)
        line = compute(ready.folder, wanted.key)
    assert line.endswith(", seed 0 (ZeroDivisionError: no such luck): failed")
    assert not ready.folder.work(wanted.key).exists()
    assert ready.folder.valid(wanted) is None
    compute(ready.folder, wanted.key)
    cell = ready.folder.valid(wanted)
    assert cell is not None
    assert len(cell.curve) == 2


def test_numbers_that_are_not_finite_are_a_result(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = made()
    monkeypatch.setattr(KD, "steal", raising(NotFinite("the features are not finite")))
    line = compute(ready.folder, kd_of(ready).key)
    assert line.endswith("(the features are not finite): diverged")
    cell = ready.folder.valid(kd_of(ready))
    assert cell is not None
    assert (cell.status, cell.why, cell.accuracy) == ("diverged", "the features are not finite", None)
    assert cell.attack_settings == {"temperature": 4.0, "alpha": 1.0}


def test_a_run_error_of_an_attacks_own_is_a_result(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = made()
    monkeypatch.setattr(KD, "steal", raising(RunError("my notes are gone")))
    assert compute(ready.folder, kd_of(ready).key).endswith("(my notes are gone): failed")


def test_a_full_disk_met_by_an_attack_is_none(made: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ready = made()

    def full(*_: Any, **__: Any) -> Any:
        (tmp_path / "file").touch()
        write_json(tmp_path / "file" / "below", 1)

    monkeypatch.setattr(KD, "steal", full)
    with pytest.raises(RunError, match="cannot write"):
        compute(ready.folder, kd_of(ready).key)
    assert ready.folder.done(kd_of(ready).key) is None


def test_a_cell_that_another_process_is_at_is_left_to_it(made: Make) -> None:
    ready = made()
    wanted = kd_of(ready)
    with locked(ready.folder.work(wanted.key)), pytest.raises(Busy, match="in use by another process"):
        compute(ready.folder, wanted.key)
    assert ready.folder.done(wanted.key) is None
    compute(ready.folder, wanted.key)
    assert ready.folder.valid(wanted) is not None


def test_a_failure_never_takes_the_place_of_a_cell_that_another_process_computed(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = made()
    wanted = kd_of(ready)
    theirs = Cell(id="e" * 16, victim="v", victim_id="", accuracy=12.5)

    def overtaken(*_: Any, **__: Any) -> Any:
        ready.folder.put(wanted.key, theirs, {})
        raise ZeroDivisionError

    monkeypatch.setattr(computing, "attack", overtaken)
    assert compute(ready.folder, wanted.key).endswith(": 12.50 %")
    assert ready.folder.valid(wanted) == theirs


def test_a_folder_that_is_planned_anew_is_read_anew(made: Make) -> None:
    ready = made()
    assert plan_of(ready.folder.folder) == ready.plan
    other = rewrite(ready, title="another one")
    assert plan_of(ready.folder.folder) == other
    (ready.folder.folder / FILE).unlink()
    with pytest.raises(UsageError, match="holds no audit"):
        plan_of(ready.folder.folder)


# -- what a plan file names ---------------------------------------------------------------------------------------------

EVIL = """
from pathlib import Path

import numpy as np


def f(pixels):
    Path(__file__).with_name("called").touch()
    return np.full((len(pixels), 4), 0.25)


Path(__file__).with_name("imported").touch()
"""


@pytest.fixture
def evil(tmp_path: Path) -> str:
    (tmp_path / "evil.py").write_text(EVIL)
    return f"{tmp_path / 'evil.py'}:f"


def naming(ready: Ready, **values: Any) -> AuditFolder:
    """The desk of one who was handed the plan, in which the victim is another."""
    subject = ready.plan.subjects[0].model_copy(update={"id": "", **values})
    rewrite(ready, subjects=(subject,))
    return replace(ready.folder, victims={})


@pytest.mark.parametrize("answers", ["probs", None])
def test_code_that_only_a_plan_names_is_not_run(made: Make, evil: str, tmp_path: Path, answers: str | None) -> None:
    ready = made()
    desk = naming(ready, model=evil, answers=answers)
    for wanted in (first(ready, role="served"), kd_of(ready)):
        with pytest.raises(UsageError, match=r"evil.py:f is code, and only a file asks for it; .* add --trust"):
            compute(desk, wanted.key)
        assert desk.done(wanted.key) is None
    assert not (tmp_path / "imported").exists()


def test_code_that_a_person_trusts_is_run_in_workers_too(made: Make, evil: str, tmp_path: Path) -> None:
    ready = made()
    desk = naming(ready, model=evil, answers="probs")
    plugins.trust(evil)
    assert compute(desk, first(ready, role="served").key).endswith("25.00 %")
    assert (tmp_path / "called").exists()
    code = "import sys; from undistill import plugins; print(plugins.named(sys.argv[1]).__name__)"
    worker = subprocess.run(
        [sys.executable, "-c", code, evil],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | plugins.environment(),
    )
    assert worker.stdout == "f\n"


def test_who_types_a_function_trusts_it(splits: Splits, recipe: Recipe, evil: str, tmp_path: Path) -> None:
    request = SMALL.but(answers="probs", unseen=True)
    ready = prepare(evil, splits, request, recipe=recipe, out=tmp_path / "audit", device="cpu", bank=None)
    planned.write(ready.folder.folder, ready.plan)
    assert compute(ready.folder, first(ready, role="served").key).endswith("25.00 %")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "../elsewhere", "recipe": {"seed": 0}}, "would train defended at ../elsewhere, which is outside"),
        ({"model": "/elsewhere", "recipe": {"seed": 0}}, "outside of"),
    ],
)
def test_a_plan_that_writes_outside_of_its_folder_is_refused(made: Make, values: Any, words: str) -> None:
    ready = made()
    desk = naming(ready, **values)
    with pytest.raises(UsageError, match=words):
        compute(desk, ready.plan.cells[0].key)


@pytest.mark.parametrize("name", ["key", "victim"])
def test_a_key_or_a_victim_that_is_a_path_is_refused(made: Make, name: str) -> None:
    ready = made()
    cells = [c for c in ready.plan.cells if getattr(c, name)]
    named = tuple(cell.model_copy(update={name: "../../kept"}) for cell in cells)
    subject = ready.plan.subjects[0].model_copy(update={"name": "../../kept"} if name == "victim" else {})
    alone = tuple(cell for cell in ready.plan.cells if not getattr(cell, name))
    rewrite(ready, cells=named + alone, subjects=(subject,))
    with pytest.raises(UsageError, match=r"names a file .*kept"):
        compute(ready.folder, named[0].key)


def test_a_victim_that_is_not_there_is_no_result(made: Make) -> None:
    ready = made()
    desk = naming(ready, model="no/such/run")
    with pytest.raises(UsageError, match="there is no model at no/such/run"):
        compute(desk, kd_of(ready).key)
    assert desk.done(kd_of(ready).key) is None


# -- victims that only answer -------------------------------------------------------------------------------------------


class Api:
    """A function that answers by the first pixels and counts how often it is asked about each image."""

    def __init__(self) -> None:
        self.asked: Counter[bytes] = Counter()

    def __call__(self, pixels: Any) -> Any:
        self.asked.update(image.tobytes() for image in pixels)
        scores = np.exp(pixels.reshape(len(pixels), -1)[:, :4] / 50.0)
        return scores / scores.sum(1, keepdims=True)


def statuses(ready: Ready) -> set[str]:
    return {"missing" if (cell := ready.folder.done(c.key)) is None else cell.why for c in ready.plan.cells}


def test_a_function_is_asked_once_about_each_image_by_all_of_the_audit(made: Make, splits: Splits) -> None:
    api = Api()
    request = SMALL.but(serve=("probs", "top2", "label"), unseen=True)
    ready = made(request, BlackBox(api, Access.PROBS, 4, "the api"))
    run(ready)
    assert statuses(ready) == {""}
    ways = sum(cell.role == "served" for cell in ready.plan.cells)
    assert ways == 2
    test = [image.tobytes() for image in splits.test.images_NCHW[:].numpy()]
    assert {api.asked[image] for image in test} == {1 + ways}  # once, and each way once more to see it change its mind
    assert set((api.asked - Counter(dict.fromkeys(test, 1 + ways))).values()) == {1}
    pool = splits.pool
    assert pool is not None
    held = [image.tobytes() for image in pool.images_NCHW[:].numpy() if api.asked[image.tobytes()]]
    assert len(held) >= 6
    assert (ready.folder.folder / "answers-defended.parquet").is_file()


def test_a_table_of_answers_is_audited_without_a_ledger(made: Make, splits: Splits, tmp_path: Path) -> None:
    assert splits.pool is not None
    pixels = torch.cat([splits.pool.images_NCHW[:], splits.test.images_NCHW[:]]).numpy()
    write_answers(tmp_path / "answers.parquet", pixels, Api()(pixels), kind="probs", num_classes=4)
    ready = made(SMALL.but(unseen=True), str(tmp_path / "answers.parquet"))
    attackers = [cell for cell in ready.plan.cells if cell.attack.get("name") != "average"]
    for cell in attackers:
        compute(ready.folder, cell.key)
    assert {found.why for c in attackers if (found := ready.folder.done(c.key)) is not None} == {""}
    assert not (ready.folder.folder / "answers-defended.parquet").exists()


# -- what is computed where ---------------------------------------------------------------------------------------------


def test_a_network_is_measured_where_it_was_asked_for(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = made()
    desk, seen = replace(ready.folder, runtime=Runtime("there")), []
    monkeypatch.setattr(computing, "choose_device", lambda name: torch.device("meta" if name == "there" else "cpu"))
    monkeypatch.setattr(computing, "describe", lambda where, precision="fp32": {"device": str(where), "as": precision})

    def served(victim: Victim, *_: Any, **__: Any) -> Any:
        seen.append(next(victim.network.parameters()).device.type)
        return {"accuracy": 50.0, "nll": None}, torch.zeros(20, dtype=torch.int64)

    monkeypatch.setattr(computing, "served", served)
    desk = replace(desk, victims={name: resolve(one.network) for name, one in desk.victims.items()})
    wanted = first(ready, role="served")
    compute(desk, wanted.key)
    cell = desk.done(wanted.key)
    assert cell is not None
    assert seen == ["meta"]
    assert cell.env == {"device": "meta", "as": "fp32"}


def test_a_function_is_not_said_to_answer_from_a_gpu(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = made(SMALL.but(unseen=True), BlackBox(Api(), Access.PROBS, 4, "the api"))
    monkeypatch.setattr(computing, "choose_device", lambda _: pytest.fail("a function is nowhere"))
    wanted = first(ready, role="served")
    compute(ready.folder, wanted.key)
    cell = ready.folder.done(wanted.key)
    assert cell is not None
    assert cell.env["device"] == "cpu"


def test_who_finds_a_teacher_in_the_making_waits_for_it(
    made: Make, splits: Splits, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ways of serving one teacher are computed at a time, and each wants it trained."""
    ready = made()
    held = list[Path]()

    def training(*_: Any, out: Path, **__: Any) -> None:
        lock = out.with_name(f".{out.name}.lock")
        code = "import fcntl, sys\nwith open(sys.argv[1]) as file: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        assert subprocess.run([sys.executable, "-c", code, lock], capture_output=True, check=False).returncode == 1
        held.append(out)

    monkeypatch.setattr(computing, "train", training)
    common: dict[str, Any] = {"recipe": recipe.dump(), "model": "teachers/normal-s0"}
    normal = Subject(name="undefended-0", side="undefended", **common)
    behind = Subject(name="defended-0", side="defended", behind=({"name": "top1"},), adversary=normal.name, **common)
    plan = ready.plan.model_copy(update={"subjects": (normal, behind)})
    for subject in plan.subjects:
        train_teacher(ready.folder, plan, subject, splits)
    assert held == [ready.folder.folder / "teachers/normal-s0"] * 2, (
        "what stands in front of the twin trains nothing else"
    )


# -- one attacker ----------------------------------------------------------------------------------------------------------

HELD = "unlabelled/fresh/random/8"


def test_who_holds_the_weights_asks_past_what_stands_in_front_of_them(
    victim: Victim, splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    def robbed(access: str, *behind: str) -> Cell:
        out = tmp_path / "-".join((access, *behind))
        card = f"{access}/{HELD}"
        return attack(
            victim, splits, "kd", card=card, recipe=recipe, out=out, device="cpu", bank=None, behind=behind, seed=3
        )

    def loss(cell: Cell) -> Any:
        return [line["loss"] for line in cell.curve]

    plain, past = robbed("weights"), robbed("weights", "top1")
    assert (loss(past), past.accuracy, past.held_out) == (loss(plain), plain.accuracy, plain.held_out)
    assert loss(robbed("logits", "top1")) != loss(robbed("logits"))


@pytest.fixture
def heist(victim: Victim, splits: Splits, recipe: Recipe) -> Callable[..., Extraction]:
    """`heist(card="probs", victim=victim, **recipe)`: an attacker that has not begun."""

    def call(card: str = "probs", by: Victim = victim, **values: Any) -> Extraction:
        changed = read({**recipe.dump(), **values})
        return Extraction(by, splits, changed, AttackConfig(threat_model=f"{card}/{HELD}"), choose_device("cpu"))

    return call


def test_ids_of_what_the_package_has_stay_as_they_were(heist: Callable[..., Extraction], victim: Victim) -> None:
    for one in (
        heist(),
        heist("weights"),
        heist(by=resolve(victim, behind=["noise"])),
        heist("weights", by=resolve(victim, behind=["noise"]), attack={"name": "finetune"}),
    ):
        assert sorted(one.fixed) == ["card", "data_fingerprint", "kind", "recipe", "victim_id"]
    assert heist("weights", by=resolve(victim, behind=["noise"])).fixed["behind"] == "nothing"


PLUGIN = """
from typing import Literal

from undistill.attacks.base import ATTACKS
from undistill.attacks.kd import KD


@ATTACKS.register
class Toy(KD):
    '''As kd.'''

    name: Literal["toy-attacker"] = "toy-attacker"


def student(num_classes, in_channels, image_size):
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A plugin with an attack and a student, forgotten behind the test."""
    monkeypatch.setitem(plugins.REMEMBERED, plugins.VARIABLE, [])
    ATTACKS.everything()
    before, modules = dict(ATTACKS._classes), set(sys.modules)
    (tmp_path / "toy.py").write_text(PLUGIN)
    plugins.load_plugin(tmp_path / "toy.py")
    yield tmp_path / "toy.py"
    ATTACKS._classes.clear()
    ATTACKS._classes.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("undistill_plugin_"):
            del sys.modules[name]


@pytest.mark.parametrize("kind", ["attack", "student"])
def test_an_edited_plugin_makes_other_cells(toy: Path, heist: Callable[..., Extraction], kind: str) -> None:
    plugins.trust(f"{toy}:student")
    values = {"attack": {"attack": {"name": "toy-attacker"}}, "student": {"student": {"name": f"{toy}:student"}}}[kind]
    first, again = heist(**values), heist(**values)
    assert first.id == again.id
    toy.write_text(PLUGIN + "\n# edited\n")
    edited = heist(**values)
    assert edited.id != first.id
    assert {**edited.fixed, "code": ""} == {**first.fixed, "code": ""}


def test_an_edited_defense_makes_other_cells_but_no_other_students_alone(
    toy: Path, heist: Callable[..., Extraction], victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = resolve(victim, behind=["top1"])
    module = f"undistill_plugin_{'0' * 12}"
    monkeypatch.setitem(sys.modules, module, type(sys)(module))
    sys.modules[module].__file__ = str(toy)
    built_in = heist(by=behind).id
    monkeypatch.setattr(type(behind.behind[0]), "__module__", module)
    assert len(code_of(behind.behind)) == 16
    assert heist(by=behind).id != built_in
    alone = {"attack": {"name": "scratch"}}
    assert heist(by=behind, **alone).id == heist(**alone).id
