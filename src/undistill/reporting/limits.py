"""What the cells show and what they do not: the second list is as much a result as the first."""

from __future__ import annotations

import math

from undistill.access import Access
from undistill.reporting import findings
from undistill.reporting.naming import listed, network_text, number, parse_card, plural
from undistill.reporting.paired import ENOUGH, difference, victim_seed
from undistill.reporting.response import Response
from undistill.reporting.rows import Section, Summary, Victim


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
        return f"What hardening cost the {victim.name} teacher's own users cannot be told: no seed has both twins."
    return (
        f"The {victim.name} teacher's own accuracy is {findings.apart(change.mean, digits)} its normal twin's"
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
        alone = f"; the student alone reached {number(control.mean, digits)} %" if control else ""
        fewest = min(group.n for _, group in found)
        few = f"; nothing can be concluded from {plural(fewest, 'seed')}" if fewest < ENOUGH else ""
        sentences.append(f"{section.title}: no thief found did better than {reached}{alone}{few}.")
    return sentences + [f"{section.title}: {text[:1].lower()}{text[1:]}" for text in findings.recovery(section)]


def does_not_show(summary: Summary, figure: Response | None) -> list[str]:
    """What nobody may read out of these cells."""
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
        size = f", {height} × {width} pixels {'in grey' if channels == 1 else 'in colour'}"
    return [f"Other data: {what}{size}. Nothing here says what happens on larger pictures or other classes."]


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
        f"Other networks: students are of {several} ({listed(sizes)}){whose}. A larger or pretrained thief may get more."
    ]


def _thieves(summary: Summary) -> list[str]:
    if not any(arm for section in summary.sections for arm in section.arms if not arm.control):
        return []
    sentences = [
        "The best that a thief can do: each attack ran at the settings shown, and no search for better ones against its victim is "
        "among these cells. The accuracies are a lower bound on what a thief gets. “None did better” picks the best of few "
        "means on the very test images it is given for."
    ]
    if any(arm.attack == "label-only" for section in summary.sections for arm in section.arms):
        sentences.append(
            "Less than labels: a defense that keeps a victim's top classes cannot push a thief below what the top classes alone "
            "teach. “victim's labels only” is that floor, and every other number is to be read against it."
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
            "Thieves on a victim's own training images meet answers it has learnt by heart: its top class there is nearly always "
            "the true label. Fresh images say more about a thief outside."
        )
    if any(card.data == "unlabelled" for card in cards) and any(_has_control(section) for section in sections):
        sentences.append(
            "A thief without labels never had the control's: where the card gives none, the student alone was still trained on the "
            "true labels of the same images, to tell what the images themselves are worth."
        )
    if cards and not any(card.access == Access.WEIGHTS for card in cards):
        sentences.append(
            "A release of weights: none of these thieves held the victim's weights. Who holds them can use them, or retrain the "
            "last layer, and that was not tested here."
        )
    return sentences


def _has_control(section: Section) -> bool:
    return any(arm.control for arm in section.arms)
