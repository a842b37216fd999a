"""What the cells show and what they do not show."""

from __future__ import annotations

import math

from undistill.reporting import findings
from undistill.reporting.naming import listed, network_text, number, parse_card, plural
from undistill.reporting.paired import difference, victim_seed
from undistill.reporting.response import Response
from undistill.reporting.rows import Section, Summary, Victim
from undistill.statistics import ENOUGH
from undistill.threat_model import Access


def shows(summary: Summary) -> list[str]:
    """The plainest statements that the cells carry, without their statistics."""
    return [
        *(_cost(victim, normal) for victim, normal in findings.twins(summary)),
        *(text for section in summary.sections for text in _of_section(section)),
    ]


def _cost(victim: Victim, normal: Victim) -> str:
    digits = findings.decimals(normal.group.cells[0].n_test)
    change = difference(victim.group, normal.group, victim_seed)
    if change is None:
        return f"The cost of the defense to users of the {victim.name} teacher is unknown: no seed has both teachers."
    return (
        f"The {victim.name} teacher's own accuracy is {findings.apart(change.mean, digits)} that of its undefended control"
        f"{findings.reading(change)}."
    )


def _of_section(section: Section) -> list[str]:
    digits, hot, control = findings.decimals(section.n_test), findings.hottest(section), findings.alone(section)
    sentences = []
    for victim in findings.hardened(section):
        change = (
            difference(section.group(hot.name, victim), section.group(hot.name, findings.normal_in(section)))
            if hot
            else None
        )
        if change is not None and hot is not None:
            sentences.append(
                f"{section.title}: a student of the {victim} teacher ({hot.name}) ended {findings.apart(change.mean, digits)} "
                f"one of the normal teacher{findings.reading(change)}."
            )
    found = [(victim, top[1]) for victim in section.victims if (top := findings.best(section, victim))]
    if found:
        reached = listed([f"{number(group.mean, digits)} % from the {victim} teacher" for victim, group in found])
        alone = f"; the baseline reached {number(control.mean, digits)} %" if control else ""
        fewest = min(group.n for _, group in found)
        few = f"; nothing can be concluded from {plural(fewest, 'seed')}" if fewest < ENOUGH else ""
        sentences.append(f"{section.title}: no attack found did better than {reached}{alone}{few}.")
    return sentences + [f"{section.title}: {text[:1].lower()}{text[1:]}" for text in findings.recovery(section)]


def does_not_show(summary: Summary, figure: Response | None) -> list[str]:
    """What these cells do not show."""
    return [
        *_data(summary, figure),
        *_networks(summary),
        *_thieves(summary),
        *_seeds(summary),
        *_cards(summary.sections),
    ]


def _data(summary: Summary, figure: Response | None) -> list[str]:
    notes = sorted({cell.data_note for cell in summary.cells if cell.data_note})
    what = f"the data are {listed(notes)}" if notes else "the cells do not say what the data are"
    size = ""
    if figure is not None:
        channels, height, width = figure.size
        size = f", {height} × {width} pixels {'in gray' if channels == 1 else 'in color'}"
    return [f"Other data: {what}{size}. Results may differ on larger images or other classes."]


def _networks(summary: Summary) -> list[str]:
    cells = [cell for section in summary.sections for cell in section.cells]
    students = sorted({cell.student for cell in cells if cell.student})
    teachers = sorted({victim.network for victim in summary.victims})
    sizes = sorted({network_text(cell.student, cell.student_settings) for cell in cells})
    if not students:
        return []
    several = "one architecture" if len(students) == 1 else f"{len(students)} architectures"
    whose = f"; teachers are {listed(teachers)}" if teachers else ""
    return [
        f"Other networks: students are of {several} ({listed(sizes)}){whose}. A larger or pretrained student may get more."
    ]


def _thieves(summary: Summary) -> list[str]:
    if not any(arm for section in summary.sections for arm in section.arms if not arm.control):
        return []
    sentences = [
        "The best possible attack: each attack ran at the settings shown, without a search against its victim. The accuracies are "
        "lower bounds on what an attacker gets. “None did better” selects the best of few means on the test images for which it "
        "is reported."
    ]
    if any(arm.attack == "label-only" for section in summary.sections for arm in section.arms):
        sentences.append(
            "Less than labels: a defense that keeps the predicted class cannot reduce an attacker below label-only attacks. "
            "“victim's labels only” is that floor; compare every other number with it."
        )
    return sentences


def _seeds(summary: Summary) -> list[str]:
    sentences = []
    tested = min((section.n_test for section in summary.sections if section.n_test), default=0)
    if tested:
        error = 100 * math.sqrt(0.95 * 0.05 / tested)
        sentences.append(
            f"Small differences: one of {tested:,} test images is {number(100 / tested, 2)} points, and the standard error of "
            f"an accuracy of 95 % on them is {number(error)} points. It comes on top of the spread over seeds and is not in the "
            "intervals."
        )
    return sentences


def _cards(sections: tuple[Section, ...]) -> list[str]:
    cards = [card for section in sections if (card := parse_card(section.card))]
    sentences = []
    if any(card.pool == "trained" for card in cards):
        sentences.append(
            "Attackers outside: on its own training images a victim's predicted class is nearly always the true label. Fresh "
            "images are closer to what an outside attacker holds."
        )
    if any(card.data == "unlabelled" for card in cards) and any(_has_control(section) for section in sections):
        sentences.append(
            "A baseline available to an attacker without labels: the baseline was trained on the true labels of the same images, "
            "which that attacker does not have."
        )
    if cards and not any(card.access == Access.WEIGHTS for card in cards):
        sentences.append(
            "A release of weights: no attack had the victim's weights. An attacker with the weights can use them directly or "
            "retrain the last layer; that was not tested here."
        )
    return sentences


def _has_control(section: Section) -> bool:
    return any(arm.control for arm in section.arms)
