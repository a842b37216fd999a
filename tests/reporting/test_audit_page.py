"""A judgement's page as text: what it says, in which order, and that names stay names."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reporting import audits
from reporting.audits import HOSTILE, LONG, attacker, card, judgement, line, victim
from reporting.browsing import valid
from undistill.auditing.result import AuditResult, Flag
from undistill.reporting import render
from undistill.reporting.audit import first
from undistill.reporting.audit.compare import write_comparison
from undistill.reporting.audit.first import ACTION, HELPS
from undistill.reporting.audit.page import document, draw, sure, write_audit
from undistill.reporting.audit.words import control_of, sentence, serving_text
from undistill.reporting.audit.words import shown as named_verdict
from undistill.reporting.export import Report

BANNED = re.compile(r"undistillable|\bsecure|\bsafe\b|\bproves?\b|\bprotected\b", re.IGNORECASE)
FILES = ("index.html", "report.md", "report.json", "report.tex")


class Visible(HTMLParser):
    """Collects what a reader sees, and the tags that were opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())


def small(**changes: Any) -> AuditResult:
    """Two cards."""
    return judgement(cards=(card("probs", 200), card("label", 200)), **changes)


def seen(own: AuditResult) -> str:
    """What the page shows."""
    return Visible(render.html(document(own, draw(own)))).text


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_audit(small(), tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def shown(report: Report) -> Visible:
    return Visible(report.page.read_text())


def test_three_answers_come_first_and_the_rest_is_folded(shown: Visible) -> None:
    heads = [
        HELPS,
        ACTION,
        "What each output access gives away",
        "Each threat model",
        "What users get",
        "Reasons to doubt",
    ]
    heads += ["What was not tried", "All cells", "Provenance"]
    places = [shown.text.rindex(head) for head in heads]
    assert places == sorted(places)
    folded = [str(attrs.get("id")) for tag, attrs in shown.tags if tag == "details" and attrs.get("class") == "part"]
    assert folded == ["exposure", "cards", "users", "flags", "not-tried", "standards", "cells", "provenance"]
    first = shown.text[: shown.text.index("What each output access gives away")]
    assert "94.9 %" in first
    assert "94.1 % from the predicted class only" in first
    assert "98.6 %" in first


def test_the_numbers_say_how_sure_they_are(shown: Visible) -> None:
    start = shown.text[: shown.text.index("Each threat model")]
    assert "all probabilities 200 94.9 94.3 to 95.5" in start
    assert "predicted class only 200 94.1 93.5 to 94.7" in start
    assert "5 seeds" in start
    assert "More than 200 queries" in shown.text


def test_every_part_of_the_judgement_is_on_the_page(shown: Visible) -> None:
    own = small()
    for one in own.threat_models:
        assert one.sentence in shown.text
        assert f"Verdict: {named_verdict(str(one.verdict))}." in shown.text
        assert one.threat_model in shown.text
        for each in one.attacks:
            assert each.name in shown.text
        for contrast in one.contrasts:
            assert contrast.name in shown.text
    for flag in own.flags:
        assert flag.about in shown.text
        assert flag.name in shown.text
    for text in (*own.not_tried, *own.commands, *own.provenance.values(), *(each.command for each in own.lines)):
        assert text in shown.text
    assert "0.84" in shown.text  # the runner-up at τ 20, as a ratio


def test_a_flag_that_is_raised_says_why_and_what_to_do_on_the_page() -> None:
    text = seen(small(flags=(Flag(name="few-seeds", about="3 seeds."),)))
    assert "few-seeds" in text
    assert "3 seeds." in text
    assert "What to do" in text[text.index("3 seeds.") :]
    assert "docs/flags.md" not in text


def test_no_back_tick_is_seen(shown: Visible) -> None:
    outside = re.sub(r"undistill audit cell \S+ \S+", "", shown.text)
    assert "`" not in outside


def test_every_verdict_that_appears_is_explained(shown: Visible) -> None:
    assert "partial The defense lowered the best extracted model; soft" in shown.text
    assert "no soft-label advantage Even the control's soft outputs" in shown.text
    assert "within δ = 2 points" in shown.text
    assert "as good as one of the undefended control" not in shown.text  # that of "no effect", which no card has


def test_no_word_that_promises_too_much(report: Report, shown: Visible, tmp_path: Path) -> None:
    other = write_comparison([("one", small()), ("two", small(taken=0.2))], tmp_path)
    texts = [shown.text, report.text, other.text, Visible(other.page.read_text()).text]
    texts += [(folder / "report.md").read_text() for folder in (report.page.parent, other.page.parent)]
    assert not [found for text in texts if (found := BANNED.search(text))]


def test_the_page_fetches_nothing(shown: Visible) -> None:
    fetched = [a.get("src") or a.get("href") for tag, a in shown.tags if tag in ("script", "link", "img", "iframe")]
    assert all(address is None or address.startswith("data:") for address in fetched)
    [policy] = [attrs["content"] for _, attrs in shown.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


def test_the_page_can_be_read_without_seeing_it(shown: Visible) -> None:
    levels = [int(tag[1]) for tag, _ in shown.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in shown.tags if tag == "th")
    assert all(attrs.get("aria-label") for _, attrs in shown.tags if "data-spec" in attrs)
    ids = [attrs["id"] for _, attrs in shown.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    anchors = [str(a["href"])[1:] for tag, a in shown.tags if tag == "a" and str(a.get("href")).startswith("#")]
    assert anchors
    assert set(anchors) <= set(ids)


@pytest.mark.parametrize("own", [small(), audits.hostile()], ids=["plain", "hostile"])
def test_the_same_judgement_gives_the_same_bytes(own: AuditResult, tmp_path: Path) -> None:
    one, two = (write_audit(own, tmp_path / name).page.parent for name in ("one", "two"))
    for name in (*FILES, *(f"figures/{path.name}" for path in (one / "figures").iterdir())):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    report = write_audit(audits.hostile(), tmp_path)
    page = Visible(report.page.read_text())
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert HOSTILE in page.text
    assert LONG in page.text
    assert "学生" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert [tag for tag, _ in page.tags].count("script") == report.page.read_text().count("</script>")
    markdown = (tmp_path / "report.md").read_text()
    assert "<img" not in "".join(markdown.split("```")[::2])  # in a block of code it is only text
    assert markdown.count("```") == 2
    assert "\n# broken out" not in markdown
    tex = [row for row in (tmp_path / "report.tex").read_text().splitlines() if not row.startswith("%")]
    assert "<img" not in "".join(tex)
    for path in (tmp_path / "figures").iterdir():
        assert "<img" not in path.read_text()


def test_without_a_twin_there_is_exposure_and_no_verdict() -> None:
    own = judgement(cards=(card("probs", 200, twin=False),), twin=False)
    text = seen(own)
    assert "No verdict: no control to compare with." in text
    assert "94.9" in text
    assert "control: best attack" not in text
    assert "no undefended control was given" in text
    assert "audited model" in text


def test_a_small_suite_gives_an_indication() -> None:
    own = judgement(cards=(card("probs", 200, verdict=None, indication="partial"),), verdicts=False, suite="quick@1")
    text = seen(own)
    assert "An indication only, no verdict: partial." in text


def test_one_seed_has_no_interval() -> None:
    text = seen(judgement(cards=(card("probs", 200, n=1),), n=1))
    assert "From 1 seed there are no intervals" in text
    assert "n = 1, no interval" in text
    assert "nan" not in text.lower().split()


def test_a_method_counts_teachers() -> None:
    text = seen(judgement(cards=(card("probs", 200),), question="method"))
    assert "confidence intervals (5 teachers)" in text
    assert "defended models" in text


def test_a_card_where_all_failed_still_has_its_place() -> None:
    lost = card(
        "probs",
        200,
        attackers=(attacker("KD", "defended", None),),
        A_label=None,
        label_equivalents=None,
        verdict="inconclusive",
    )
    text = seen(judgement(cards=(lost,), learning=()))
    assert "all probabilities 200 –" in text
    assert "nothing to draw" in text
    assert "Verdict: inconclusive." in text


def test_an_empty_judgement_is_a_page() -> None:
    own = small(flags=(), not_tried=(), lines=(), learning=(), commands=(), provenance={})
    text = seen(own)
    assert "No flag was raised" in text
    assert "The judgement lists none." in text


def test_what_is_not_resolved_is_said_beside_the_intervals() -> None:
    assert "resolved to 3.2 points" in sure(small(measured_half_width=3.2))
    assert "resolved to" not in sure(small(measured_half_width=0.1))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("probs", "all probabilities"),
        ("probs:2", "all probabilities, 2 digits"),
        ("top5:2", "top 5 classes, 2 digits"),
        ("top1", "top class with its probability"),
        ("label", "predicted class only"),
        ("labels", "predicted class only"),
        ("weights", "the weights"),
        ("telepathy", "telepathy"),
    ],
)
def test_ways_of_serving_have_words(code: str, text: str) -> None:
    assert serving_text(code) == text


def test_users_are_set_against_the_twin_that_is_served_alike() -> None:
    own = small()
    by_name = {(v.name, v.access): v for v in own.victims}
    assert control_of(own, by_name["nasty", "label"]) is by_name["normal", "label"]
    assert control_of(own, by_name["normal", "label"]) is None
    two = small(
        victims=(victim("a", "defended"), victim("b", "defended"), victim("c", "undefended"), victim("d", "undefended"))
    )
    assert control_of(two, two.victims[1]) is two.victims[3]


def test_failed_cells_are_told(shown: Visible) -> None:
    assert shown.text.count("failed: the loss was not finite") == sum(each.status == "failed" for each in small().lines)
    text = seen(small(lines=(line(3, accuracy=None),)))
    assert "All 1 planned cells" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the bound is above", "The bound is above."),
        ("τ 1 is", "τ 1 is."),
        ("kd won!", "kd won!"),
        ("", ""),
        ("label-only won", "label-only won."),
    ],
)
def test_a_sentence_begins_and_ends(text: str, shown: str) -> None:
    assert sentence(text) == shown


def test_an_interrupted_audit_answers_from_the_budgets_that_it_has() -> None:
    """The largest budget comes last: as long as it is not there, the next one is what is known."""
    lost = card("probs", 200, attackers=(attacker("KD", "defended", None),), A_def=None, verdict="inconclusive")
    answer = first.gets(judgement(cards=(card("probs", 50), lost), learning=()))
    assert "Not known yet" not in answer.text
    assert "50 queries" in answer.text


def test_every_chart_is_valid(report: Report) -> None:
    assert valid(report.page)
