"""The judgement's tables: the page, Markdown, JSON, LaTeX and the terminal say the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reporting import audits
from reporting.audits import attacker, card, judgement
from reporting.test_audit_page import Visible, small
from undistill.auditing.result import AuditResult, Contrast, Outlook
from undistill.reporting.audit import curves, first, lanes, tables, words
from undistill.reporting.audit.page import write_audit
from undistill.reporting.export import Report
from undistill.reporting.render import plain, rows


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_audit(small(), tmp_path_factory.mktemp("audit"))


def test_each_threat_model_has_tables_of_its_own(report: Report) -> None:
    held = {path.name: path.read_text() for path in (report.page.parent / "tables").glob("attacks-*.csv")}
    cards = [card["card"] for card in report.values["judgement"]["cards"]]
    assert len(held) == len(cards) == 2
    assert all(card in held[f"attacks-{place}.csv"] for place, card in enumerate(cards))


def test_all_outputs_hold_the_exposure(report: Report) -> None:
    folder = report.page.parent
    texts = [
        Visible(report.page.read_text()).text,
        (folder / "report.md").read_text(),
        (folder / "report.tex").read_text(),
    ]
    for row in report.values["tables"]["exposure"]:
        assert f"{row['mean']:.1f}" in report.text
        for text in texts:
            assert f"{row['mean']:.1f}" in text
            assert f"{row['low']:.1f} to {row['high']:.1f}" in text
            assert f"{row['undefended_mean']:.1f}" in text
            assert f"{row['exposure']:.1f}" in text


def test_json_holds_the_judgement_as_it_came(report: Report) -> None:
    values = json.loads((report.page.parent / "report.json").read_text())
    assert values == report.values
    assert AuditResult.model_validate(values["judgement"]) == small()
    assert len(values["tables"]["thieves"]) == sum(len(one.attacks) for one in small().threat_models)


def test_exposure_rows_are_the_cards() -> None:
    own = judgement()
    grid = tables.exposure(own)
    assert [(r["serving"], r["questions"]) for r in grid.long] == [(c.access, c.queries) for c in own.threat_models]
    row = rows(grid)[3]
    assert row[:5] == ["all probabilities", "1,000", "97.2 (96.6 to 97.8)", "98.5", "more than 1,671"]
    assert row[8:] == ["partial", "decoupled", "14", "1,000 fresh images, no labels"]


def test_exposure_without_a_twin_has_no_columns_for_one() -> None:
    grid = tables.exposure(judgement(cards=(card(twin=False),), twin=False))
    assert not [head for head in grid.columns if "control" in head]
    assert rows(grid)[1][6] == "no verdict (no control to compare with)"


def test_an_equivalent_beyond_the_largest_number_says_so() -> None:
    grid = tables.exposure(
        judgement(
            cards=(card(label_equivalents=4000.0, label_equivalents_beyond=True), card("label", label_equivalents=None))
        )
    )
    assert [row[4] for row in rows(grid)[1:]] == ["more than 4,000", "–"]


def test_users_lose_what_the_twin_has_more() -> None:
    grid = tables.users(small())
    row = next(row for row in rows(grid) if row[0] == "nasty" and row[2] == "all probabilities")
    assert [entry.split(" to the control")[0] for entry in row[3:]] == [
        "98.6 (−0.6",
        "99.9 (−0.1",
        "0.210 (+0.170",
        "4.1 (+3.2",
        "3.9 (+2.5",
    ]
    label = next(row for row in rows(grid) if row[0] == "normal" and row[2] == "predicted class only")
    assert label[3:] == ["99.2", "–", "–", "0.9", "1.4"]


def test_differences_with_their_bounds() -> None:
    grid = tables.behind(card(), small())
    assert [row[0] for row in rows(grid)[1:]] == ["A_soft − A_label", "headroom", "removed"]
    assert rows(grid)[2][2:] == ["+3.2", "2.6 to 3.8", "2.7", "3.7", "5"]
    same = card(contrasts=(Contrast(name="H", about="headroom", estimate=audits.estimate(3.2)),))
    assert [row[0] for row in rows(tables.behind(same, small()))[1:]] == ["H", "removed"]


def test_attackers_stand_soft_first_then_labels_then_controls() -> None:
    own = card()
    reads = [each.reads for each in tables.ranked(own)]
    assert reads == sorted(reads, key=["soft", "labels", "nothing"].index)
    defended = [
        each.accuracy.mean
        for each in tables.ranked(own)
        if each.side == "defended" and each.reads == "soft" and each.accuracy
    ]
    assert defended == sorted(defended, reverse=True)
    assert len(tables.ranked(own)) == len(own.attacks)


def test_latex_is_escaped_and_booktabs(tmp_path: Path) -> None:
    own = card(attackers=(attacker("a_b & 50 % $x$ \\input{evil}", "defended", 94.0),))
    write_audit(judgement(cards=(own,), title="100 % of_it", learning=()), tmp_path)
    text = (tmp_path / "report.tex").read_text()
    assert r"a\_b \& 50 \% \$x\$ \textbackslash{}input\{evil\}" in text
    assert "\\input" not in text
    assert text.startswith(r"% Audit of 100 \% of\_it")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3  # exposure, one card's attackers, users
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 3


def test_the_last_screen_of_the_terminal_answers_and_fits(report: Report) -> None:
    lines = report.text.splitlines()
    assert lines[-1] == f"Page: {report.page}"
    assert [
        head for head in (first.GETS, first.HELPS, first.ACTION) if not any(x.startswith(head) for x in lines)
    ] == []
    assert len(lines) <= 24
    assert max(map(len, lines[:-1])) <= 80
    assert not any(line.endswith(" ") for line in lines)


def test_attacks_that_learn_nothing_even_from_the_control_are_told_before_any_number() -> None:
    weak = attacker("KD, τ 4, α 1", "undefended", 11.0)
    good = attacker("KD, τ 4, α 1", "undefended", 60.0)
    outlook = Outlook(model="nasty", chance=10.0)
    said = [first.warnings(judgement(cards=(card(attackers=(own,)),), outlook=outlook)) for own in (weak, good)]
    told = [[text for text in each if "ended near guessing" in text] for each in said]
    assert [len(each) for each in told] == [1, 0]
    assert told[0][0].startswith("1 of 1 attack on the control ended near guessing")


def test_a_terminal_obeys_no_name() -> None:
    assert plain("a\x1b[31mb\nc\r") == "a [31mb c"


def test_every_cell_is_a_row_with_its_command() -> None:
    own = small()
    table = tables.cells(own)
    assert [*table.frame["accuracy, %"]] == [line.accuracy for line in own.lines]
    assert [*table.frame["command"]] == [line.command for line in own.lines]
    assert len(rows(table)) == len(own.lines) + 1


def test_dots_hold_every_attacker_once() -> None:
    own = card()
    spec = lanes.accuracies(own, small())
    assert spec is not None
    [values] = [layer["data"]["values"] for layer in spec["layer"] if layer["mark"]["type"] == "point"]
    assert len(values) == len(own.attacks)
    assert len({value["y"] for value in values}) == len(values)
    assert {value["key"] for value in values} == {"defended", "undefended", "alone"}
    shapes = {
        tuple(layer["encoding"]["shape"]["scale"]["range"]) for layer in spec["layer"] if "shape" in layer["encoding"]
    }
    assert shapes == {("triangle-up", "square", "circle")}


def test_questions_have_a_curve_a_serving_and_the_student_alone() -> None:
    curve = curves.by_queries(judgement())
    assert curve is not None
    assert [name for name, _ in curve.lines][-1] == "baseline, no access, by labeled images"
    assert [name for name, _ in curve.lines][-2] == curves.CONTROL
    assert len(curve.lines) == 6
    assert [point.x for point in curve.lines[0][1]] == [50, 200, 1000]
    assert len({(look[0], look[1]) for look in curve.looks.values()}) == 6
    assert {point["at"] for point in curves.spec(curve)["layer"][1]["data"]["values"]} == {50, 200, 1000}


def test_temperatures_of_both_sides() -> None:
    curve = curves.by_temperature(card(), small())
    assert curve is not None
    assert [name for name, _ in curve.lines] == ["defended model", "undefended control"]
    assert [point.x for point in curve.lines[0][1]] == [1, 2, 4, 8, 20]
    assert curves.by_temperature(card(search={}), small()) is None


@pytest.mark.parametrize(
    ("field", "mine", "theirs", "loses"),
    [
        ("accuracy", 90.0, 92.0, True),
        ("accuracy", 92.0, 90.0, False),
        ("accuracy", 91.9, 92.0, False),  # too little to be seen
        ("ece", 4.0, 1.0, True),
        ("ece", 1.0, 4.0, False),
        ("brier", 14.0, 13.0, True),
        ("brier", 13.0, 14.0, False),
    ],
)
def test_users_lose_accuracy_downwards_and_errors_upwards(field: str, mine: float, theirs: float, loses: bool) -> None:
    own = small()
    same = {"accuracy": 95.0, "ece": 2.0, "brier": 9.0}
    victims = [one.model_copy(update=same | {field: mine if one.side == "defended" else theirs}) for one in own.victims]
    own = own.model_copy(update={"victims": tuple(victims)})
    found = words.costs(own, "probs")
    assert found[field] == (mine, theirs, loses)
    assert [name for name, (_, _, seen) in found.items() if seen] == ([field] if loses else [])
    assert ("worse" in first.helps(own).text or "Users lose" in first.helps(own).text) is loses


def test_a_function_is_told_its_own_command_behind_a_defense() -> None:
    """With its data and outputs, and into another folder: the command runs as it is printed."""
    typed = "undistill audit my_api.py:predict --outputs probs --data 'my photos' --pool 0.3 -o runs/api"
    own = judgement(cards=(card(twin=False),), twin=False)
    box = Outlook(model="my_api.py:predict", place="my_api.py:predict", folder="runs/api")
    told = first.helps(own.model_copy(update={"outlook": box, "commands": (typed, "undistill report runs/api")}))
    assert told.commands == (f"{typed.removesuffix(' -o runs/api')} --output-defense top1 -o runs/api-top1",)
    bare = first.helps(own.model_copy(update={"outlook": box, "commands": ()}))
    assert bare.commands == ("undistill audit my_api.py:predict --output-defense top1 -o runs/api-top1",)


def test_a_function_that_returns_classes_only_is_offered_no_defense() -> None:
    own = judgement(cards=(card(twin=False).model_copy(update={"access": "label"}),), twin=False)
    box = Outlook(model="my_api.py:predict", place="my_api.py:predict", folder="runs/api")
    told = first.helps(own.model_copy(update={"outlook": box}))
    assert told.commands == ()
    assert "predicted class only" in told.text


def test_on_too_few_images_the_only_advice_is_more_of_them() -> None:
    told = [
        first.action(judgement(cards=(card(), card("label")), outlook=Outlook(model="photos", few=few))).text
        for few in ("", "too few data for an answer")
    ]
    assert "more images" not in told[0]
    assert told[1].startswith("Get more images before")
