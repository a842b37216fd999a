"""`undistill list`: kinds by any of their names, words before formulas, lines of at most 100 characters."""

from __future__ import annotations

import pytest

from undistill.cli.catalog import FORMULA, KINDS, catalog, kind_of
from undistill.cli.main import main
from undistill.cli.verbs import WIDTH
from undistill.errors import UsageError
from undistill.threat_model import ThreatModel


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_found_by_its_singular_and_its_plural(kind: str) -> None:
    assert kind_of(kind) == kind_of(f"{kind}s") == kind_of(kind.upper()) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("defences", "defense"),
        ("optimisers", "optimizer"),
        ("cards", "threat-model"),
        ("threat_models", "threat-model"),
        ("answer-defenses", "output-defense"),
        ("output-defences", "output-defense"),
        ("datasets", "data"),
        ("networks", "model"),
    ],
)
def test_other_spellings_of_a_kind_are_read(text: str, kind: str) -> None:
    assert kind_of(text) == kind


def test_a_kind_there_is_not_is_named() -> None:
    with pytest.raises(UsageError, match=r"'attakcs'.*did you mean attack"):
        kind_of("attakcs")


def test_words_come_before_formulas() -> None:
    for kind in ("attack", "defense", "output-defense"):
        for entry in catalog(kind)[kind]:
            assert not FORMULA.search(entry["about"]), entry["name"]
            assert len(entry["about"].split()) > 4, entry["name"]
    (kd,) = (entry for entry in catalog("attack")["attack"] if entry["name"] == "kd")
    assert "KL" in kd["formula"]


@pytest.mark.parametrize("kind", ["", "attacks", "recipes", "models"])
def test_lines_are_short(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["list", *([kind] if kind else [])])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 10
    assert [line for line in lines if len(line) > WIDTH] == []


@pytest.mark.parametrize("card", ["probs/unlabelled/fresh/random/50", "logits/labelled(0.5)/trained/random"])
def test_a_threat_model_is_read_in_american_spelling(card: str) -> None:
    assert ThreatModel.parse(card.replace("labelled", "labeled")) == ThreatModel.parse(card)
