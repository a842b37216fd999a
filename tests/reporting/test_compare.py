"""Audits side by side: who is dominated, who may be compared at all, and the four files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from reporting.audits import HOSTILE, card, estimate, judgement, victim
from reporting.test_audit_page import Visible
from undistill.auditing.result import AuditResult
from undistill.errors import UsageError
from undistill.reporting.audit import scatter
from undistill.reporting.audit.compare import named, ranks, write_comparison
from undistill.reporting.audit.contest import Entrant, contests, definition, dominates, lonely


def audit(
    taken: float = 0.5,
    accuracy: float = 99.2,
    brier: float = 1.4,
    *,
    servings: tuple[str, ...] = ("probs",),
    **changes: Any,
) -> AuditResult:
    """One defense on threat models of 200 queries; the same control each time."""
    mine = [victim("m", "defended", s, accuracy=accuracy, brier=brier, top5=99.5) for s in servings]
    twin = [victim("normal", "undefended", s) for s in servings]
    values = {
        "cards": tuple(card(s, 200, taken=taken) for s in servings),
        "victims": (*mine, *twin),
        "failed": 0,
        **changes,
    }
    return judgement(**values)


def entrant(
    mean: float, accuracy: float = 99.0, brier: float | None = 2.0, *, half: float = 0.5, n: int = 5
) -> Entrant:
    users = {"accuracy": accuracy, "top5": None, "nll": None, "ece": None, "brier": brier}
    return Entrant(1, "x", estimate(mean, n=n, half=half), 90.0, users, users)


@pytest.mark.parametrize(
    ("one", "other", "answer"),
    [
        (entrant(90.0), entrant(92.0), True),  # intervals apart, users alike
        (entrant(90.0), entrant(90.9), False),  # intervals touch
        (entrant(92.0), entrant(90.0), False),
        (entrant(90.0), entrant(90.0), False),  # alike
        (entrant(90.0, 98.9), entrant(95.0, 99.0), False),  # users lose a little
        (entrant(90.0, 99.0, 2.1), entrant(95.0, 99.0, 2.0), False),
        (entrant(90.0, 99.0), entrant(90.0, 96.9), True),  # better for users by more than δ
        (entrant(90.0, 99.0), entrant(90.0, 97.0), False),  # by δ and no more
        (entrant(90.0, 99.0, 2.0), entrant(90.0, 99.0, 4.1), True),
        (entrant(90.0, 99.0, None), entrant(92.0, 99.0, 1.0), True),  # a Brier score that one lacks is left out
        (entrant(90.0, n=1), entrant(99.0, n=1), False),  # no interval
        (entrant(90.0, 99.0, n=1), entrant(90.0, 90.0, n=1), True),
    ],
)
def test_dominated_is_what_the_page_says(one: Entrant, other: Entrant, answer: bool) -> None:
    assert dominates(one, other, 2.0) is answer


def test_who_was_not_measured_neither_wins_nor_loses() -> None:
    nobody = Entrant(1, "x", None, None, dict(entrant(90.0).users), {})
    assert not dominates(nobody, entrant(99.0), 2.0)
    assert not dominates(entrant(1.0), nobody, 2.0)


def test_the_twin_takes_part_once_and_can_win() -> None:
    pairs = [("useless", audit(0.0, accuracy=90.0)), ("good", audit(0.9))]
    [contest] = contests(pairs)
    assert [e.name for e in contest.entrants] == ["useless", "good", "undefended"]
    assert [e.number for e in contest.entrants] == [1, 2, 3]
    useless, good, twin = contest.entrants
    assert useless.beaten == (2, 3)
    assert good.beaten == ()
    assert twin.beaten == (2,)  # the same users, an attacker who gets less
    assert useless.lost["accuracy"] == pytest.approx(9.2)
    assert twin.lost["accuracy"] == 0.0


def test_different_twins_are_different_rows() -> None:
    other = audit(0.5)
    other = other.model_copy(update={"victims": (other.victims[0], victim("normal", "undefended", accuracy=98.0))})
    [contest] = contests([("one", audit(0.5)), ("two", other)])
    assert [e.name for e in contest.entrants][2:] == ["undefended control of one", "undefended control of two"]


def test_cards_are_never_mixed() -> None:
    pairs = [
        ("one", audit(servings=("probs", "label"))),
        ("two", audit(servings=("probs", "top1"))),
        ("three", audit(servings=("top1",))),
    ]
    found = {contest.card.access: contest for contest in contests(pairs)}
    assert found.keys() == {"probs", "top1"}
    assert [e.name for e in found["probs"].entrants if e.defended] == ["one", "two"]
    assert found["probs"].absent == ("three",)
    assert [e.number for e in found["top1"].entrants if e.defended] == [2, 3]
    assert lonely(pairs) == [("label/unlabelled(1.0)/fresh/random/200", "one")]


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (audit(provenance={"data": "digits", "fingerprint": "other"}), "data"),
        (audit(delta=0.5), "δ"),
        (audit(victims=(victim("m", "defended", n_test=10_000),)), "test images"),
    ],
    ids=["data", "delta", "test images"],
)
def test_strangers_are_refused(other: AuditResult, word: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"different .*{word}"):
        write_comparison([("one", audit()), ("two", other)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_audit_and_two_of_a_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two audits or more"):
        contests([("one", audit())])
    with pytest.raises(UsageError, match="called 'one'"):
        contests([("one", audit()), ("one", audit())])
    with pytest.raises(UsageError, match="no threat model in common"):
        contests([("one", audit()), ("two", audit(servings=("label",)))])


def test_four_files_say_the_same(tmp_path: Path) -> None:
    pairs = [("nasty", audit(0.7, 98.6, 3.9)), ("reverse", audit(0.1, 95.0, 9.0, suite="quick@1"))]
    report = write_comparison(pairs, tmp_path)
    values = json.loads((tmp_path / "report.json").read_text())
    assert values == report.values
    page = Visible(report.page.read_text()).text
    texts = [page, (tmp_path / "report.md").read_text(), (tmp_path / "report.tex").read_text(), report.text]
    rows = values["cards"][0]["rows"]
    assert [row["dominated_by"] for row in rows] == [[], ["nasty"], []]
    for row in rows:
        assert all(f"{row['thief']:.1f}" in text for text in texts)
        assert all(f"{row['accuracy']:.1f}" in text for text in texts[:3])
    assert definition(2.0) in page
    assert "Not all were audited by the same suite" in page
    assert report.text.splitlines()[-1] == f"Page: {report.page}"
    assert "Dominated on some threat model: reverse." in page


def test_audits_are_named_by_their_defense_and_not_by_their_folder() -> None:
    plain = audit(0.0, 99.2)
    nasty = plain.victims[0].model_copy(update={"defense": {"name": "nasty"}})
    behind = plain.victims[0].model_copy(
        update={"defense": {}, "output_defenses": ({"name": "stingy"}, {"name": "rounding", "digits": 1})}
    )
    nasty, behind, bare = (
        one.model_copy(update={"label": "m"}) for one in (nasty, behind, nasty.model_copy(update={"defense": {}}))
    )
    own = [plain.model_copy(update={"victims": (one, plain.victims[1])}) for one in (nasty, behind, bare)]
    names = [name for name, _ in named([(Path(f"runs/a{place}"), each) for place, each in enumerate(own)])]
    assert names == ["nasty", "stingy then rounding", "no defense"]
    twice = [name for name, _ in named([(Path("runs/a"), own[0]), (Path("runs/b"), own[0])])]
    assert twice == ["nasty (a)", "nasty (b)"]


def test_a_ranking_puts_what_leaves_an_attacker_least_first_and_ties_share_a_rank() -> None:
    pairs = [("weak", audit(0.0)), ("costly", audit(0.95, 97.0, 9.0)), ("good", audit(0.9))]
    [contest] = contests(pairs)
    found = [(rank, each.name) for rank, each in ranks(contest, 1.0)]
    assert found[:2] == [(1, "good"), (1, "costly")]
    assert found[2][0] == 3


def test_names_in_the_plot_are_apart_and_none_is_left_out() -> None:
    pairs = [(f"defense-{place}", audit(0.5 + 0.001 * place)) for place in range(8)]
    [contest] = contests(pairs)
    spec = scatter.spec(contest, "brier")
    assert spec is not None
    [values] = [layer["data"]["values"] for layer in spec["layer"] if layer["mark"]["type"] == "text"]
    places = sorted(value["at"] for value in values)
    low, high = next(x["encoding"]["y"]["scale"]["domain"] for x in spec["layer"] if x["mark"]["type"] == "text")
    assert {value["name"] for value in values} == {entrant.name for entrant in contest.entrants}
    assert min(b - a for a, b in itertools.pairwise(places)) > 0.04 * (high - low)
    assert low <= places[0]
    assert places[-1] <= high


def test_one_large_loss_does_not_press_the_others_together() -> None:
    pairs = [
        ("a", audit(0.5, brier=1.5)),
        ("b", audit(0.4, brier=1.6)),
        ("c", audit(0.3, brier=1.9)),
        ("d", audit(0.2, brier=60.0)),
    ]
    [contest] = contests(pairs)
    spec = scatter.spec(contest, "brier")
    assert spec is not None
    assert "symlog" in json.dumps(spec)
    assert scatter.ordered(contest)[0][0] == "brier"  # no defense costs accuracy, so that plot comes last


def test_the_same_judgements_give_the_same_bytes(tmp_path: Path) -> None:
    pairs = [(HOSTILE, audit(0.7)), ("two", audit(0.1))]
    one, two = (write_comparison(pairs, tmp_path / name).page.parent for name in ("one", "two"))
    for name in ("index.html", "report.md", "report.json", "report.tex"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    page = Visible((one / "index.html").read_text())
    assert HOSTILE in page.text
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert "<img" not in (one / "report.md").read_text()


def test_a_defense_without_a_twin_is_listed_and_not_drawn() -> None:
    bare = audit(0.3)
    bare = bare.model_copy(update={"victims": bare.victims[:1]})
    [contest] = contests([("one", audit(0.7)), ("bare", bare)])
    assert scatter.left_out(contest, "accuracy") == ["bare"]
    spec = scatter.spec(contest, "accuracy")
    assert spec is not None
    [values] = [layer["data"]["values"] for layer in spec["layer"] if layer["mark"]["type"] == "point"]
    assert [value["name"] for value in values] == ["one", "undefended"]


def test_the_scatter_tells_dominated_apart_by_colour_and_shape() -> None:
    [contest] = contests([("good", audit(0.9)), ("bad", audit(0.0, 90.0))])
    assert len({look[1] for look in scatter.legend(contest)}) == len({look[2] for look in scatter.legend(contest)}) == 3
    for measure in scatter.MEASURES:
        assert scatter.spec(contest, measure) is not None
