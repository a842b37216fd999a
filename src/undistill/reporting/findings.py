"""Sentences about differences, each computed from cells. No sentence here is true by assumption."""

from __future__ import annotations

from undistill.reporting.naming import ALONE, NORMAL, listed, number, parse_card, plural, signed
from undistill.reporting.paired import ENOUGH, Difference, difference, student_seed, victim_seed
from undistill.reporting.summary import Arm, Group, Section, Summary


def decimals(n_test: int) -> int:
    """Digits behind the point that a percentage of so many images deserves."""
    return 2 if n_test >= 5000 else 1


def of_victims(summary: Summary) -> list[str]:
    """What hardening cost the victims' own users."""
    sentences = []
    for normal in (victim for victim in summary.victims if victim.name == NORMAL):
        for other in summary.victims:
            if other.name != NORMAL and (other.network, other.data) == (normal.network, normal.data):
                change = difference(other.group, normal.group, victim_seed)
                digits = decimals(normal.group.cells[0].n_test)
                if change is None:
                    continue
                sentences.append(
                    f"The {other.name} teacher itself reaches {_mean(change.first, digits)} % on test images, its normal twin "
                    f"{_mean(change.second, digits)} %: {_difference(change, digits)}"
                )
    if not summary.victims:
        sentences.append("The victims’ own accuracies are not among these cells.")
    return sentences


def of_section(section: Section) -> list[str]:
    """What the cells of one card say, the plainest contrasts first."""
    sentences = [text for arm in section.arms if not arm.control for text in _contrasts(section, arm)]
    sentences += [text for victim in section.victims if victim != ALONE for text in _best(section, victim)]
    headroom = _headroom(section)
    return sentences + ([headroom] if headroom else [])


def best(section: Section, victim: str) -> tuple[Arm, Group] | None:
    """The arm of the highest mean against this victim, lost cells aside."""
    groups = [(arm, group) for arm in section.arms if not arm.control and (group := section.group(arm.name, victim))]
    found = [(arm, group) for arm, group in groups if group.mean is not None]
    return max(found, key=lambda pair: pair[1].mean or 0.0) if found else None


def alone(section: Section) -> Group | None:
    """The students without a victim."""
    groups = [group for arm in section.arms if (group := section.group(arm.name, ALONE)) and group.n]
    return max(groups, key=lambda group: group.mean or 0.0) if groups else None


def recovery(section: Section) -> list[str]:
    """How much of what hot answers of a hardened victim cost comes back when the same thief reads them otherwise."""
    control, digits = alone(section), decimals(section.n_test)
    sentences = []
    for victim in (v for v in section.victims if v not in (ALONE, NORMAL)):
        soft = [
            (arm, g) for arm in section.arms if arm.attack == "kd" and (g := section.group(arm.name, victim)) and g.n
        ]
        others = [
            (arm, g) for arm in section.arms if not arm.control and (g := section.group(arm.name, victim)) and g.n
        ]
        if control is None or len(others) < 2 or not soft:
            continue
        worst_arm, worst = soft[0]  # arms stand hottest first
        loss = difference(control, worst, student_seed)
        if loss is None or loss.n < ENOUGH or loss.sign < 1:
            continue
        for arm, group in others:
            back = difference(group, worst)
            if arm is not worst_arm and back is not None and back.n == loss.n and back.mean >= loss.mean / 2:
                sentences.append(
                    f"{section.title}: the loss hides in how answers are read. From the same {victim} teacher, “{arm.name}” wins back "
                    f"{number(back.mean, digits)} of the {number(loss.mean, digits)} points that “{worst_arm.name}” lies below the "
                    f"student alone ({plural(back.n, 'seed')})."
                )
    return sentences


def doubts(summary: Summary) -> list[str]:
    """What keeps these numbers from being conclusive; shown first on the page."""
    found = []
    if summary.sections and summary.fewest < ENOUGH:
        least = "no value at all" if summary.fewest == 0 else f"only {plural(summary.fewest, 'seed')}"
        found.append(
            f"Some results below rest on {least}. From fewer than {ENOUGH} seeds nothing can be concluded: "
            "a difference may be the luck of one training."
        )
    lost = summary.lost
    if lost:
        fates = listed(sorted({cell.status if cell.status != "ok" else "without a value" for cell in lost}))
        found.append(
            f"{plural(len(lost), 'cell')} gave no accuracy ({fates}); the tables count them where they belong."
        )
    if not summary.sections:
        found.append("No thief is among these cells: they say nothing about copying.")
    for section in summary.sections:
        if any(_repeats(group) for group in section.groups.values()):
            found.append(
                f"{section.title}: some seeds occur more than once, so these cells come from different victims or runs."
            )
        if alone(section) is None:
            found.append(
                f"{section.title}: no student was trained alone there, so nothing says what the victim’s answers were worth."
            )
    return list(dict.fromkeys(found))


def _contrasts(section: Section, arm: Arm) -> list[str]:
    digits = decimals(section.n_test)
    sentences = []
    for victim in (v for v in section.victims if v not in (ALONE, NORMAL)):
        hardened, normal = section.group(arm.name, victim), section.group(arm.name, NORMAL)
        if hardened is None and normal is None:
            continue
        change = difference(hardened, normal)
        if change is None:
            missing = NORMAL if normal is None or not normal.n else victim
            sentences.append(
                f"{arm.name}: no difference can be told, a student of the {missing} teacher is missing on these seeds."
            )
            continue
        sentences.append(
            f"{arm.name}: a student of the {victim} teacher reached {_mean(change.first, digits)} %, of the normal one "
            f"{_mean(change.second, digits)} %: {_difference(change, digits)}"
        )
    return sentences


def _best(section: Section, victim: str) -> list[str]:
    top, digits = best(section, victim), decimals(section.n_test)
    if top is None:
        return [f"No thief of the {victim} teacher gave an accuracy."]
    arm, group = top
    tried = sum(1 for a in section.arms if not a.control and section.group(a.name, victim))
    none = "The one attack tried" if tried == 1 else f"Of the {tried} attacks tried none"
    verb = "reached" if tried == 1 else "did better than"
    text = (
        f"{none} on the {victim} teacher {verb} {number(group.mean, digits)} % ({arm.name}, {plural(group.n, 'seed')})"
    )
    control = alone(section)
    change = difference(group, control, student_seed)
    if control is None or change is None:
        return [f"{text}."]
    return [f"{text}; the student alone reached {_mean(change.second, digits)} %: {_difference(change, digits)}"]


def _headroom(section: Section) -> str | None:
    """What soft answers of the normal victim are worth here, and what was taken of it."""
    digits = decimals(section.n_test)
    soft = [
        (a, g)
        for a in section.arms
        if a.attack not in ("label-only", "scratch") and (g := section.group(a.name, NORMAL)) and g.n
    ]
    labels = next(
        (g for a in section.arms if a.attack == "label-only" and (g := section.group(a.name, NORMAL)) and g.n), None
    )
    card = parse_card(section.card)
    if not soft or labels is None or card is None:
        return None
    arm, top = max(soft, key=lambda pair: pair[1].mean or 0.0)
    floor, of, key = labels, "its labels alone", None
    control = alone(section)
    if card.data == "labelled" and control is not None and (control.mean or 0) > (labels.mean or 0):
        floor, of, key = control, "no victim at all", student_seed
    room = difference(top, floor, key) if key else difference(top, floor)
    if room is None:
        return None
    text = (
        f"Headroom, which is all that a defense that keeps its top answers could take here: soft answers of the normal teacher "
        f"({arm.name}) are worth {signed(room.mean, digits)} points over {of}{_spread(room, digits)}."
    )
    if room.n < ENOUGH:
        return text
    if room.sign < 1:
        return f"{text} These seeds cannot tell it from nothing, so on this card there was nothing measurable to take."
    for victim in (v for v in section.victims if v not in (ALONE, NORMAL)):
        left = best(section, victim)
        if left is not None and (top.mean or 0) > 0:
            keeps = max(left[1].mean or 0.0, floor.mean or 0.0)
            text += f" Against the {victim} teacher {number((top.mean or 0) - keeps, digits)} of these points are gone."
    return text


def _difference(change: Difference, digits: int) -> str:
    """`difference −5.3 points (paired over …).`, and what may be read from it."""
    text = f"difference {signed(change.mean, digits)} points{_spread(change, digits)}."
    if change.unpaired:
        text += f" {plural(change.unpaired, 'seed')} had no partner or no value."
    if change.n < ENOUGH:
        return f"{text} Nothing can be concluded from {plural(change.n, 'seed')}."
    return text if change.sign else f"{text} The interval contains 0: these seeds do not separate the two."


def _spread(change: Difference, digits: int) -> str:
    if change.n == 1:
        return " (one seed)"
    each = ", ".join(signed(value, digits) for value in change.each)
    if change.interval is None:
        return f" (paired over {change.n} seeds: {each})"
    low, high = change.interval
    return f" (paired over {change.n} seeds: {each}; 95 % t interval {signed(low, digits)} to {signed(high, digits)})"


def _mean(values: tuple[float, ...], digits: int) -> str:
    return number(sum(values) / len(values), digits)


def _repeats(group: Group) -> bool:
    seeds = [tuple(sorted(cell.seeds.items())) for cell in group.cells]
    return len(set(seeds)) < len(seeds)
