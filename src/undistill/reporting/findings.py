"""Sentences about differences, each computed from cells. No sentence here is true by assumption."""

from __future__ import annotations

from collections import defaultdict

from undistill.reporting.naming import ALONE, NORMAL, is_normal, listed, number, parse_card, plural, signed
from undistill.reporting.paired import Paired, difference, student_seed, victim_seed
from undistill.reporting.rows import Arm, Group, Section, Summary, Victim
from undistill.statistics import ENOUGH


def decimals(n_test: int) -> int:
    """Digits behind the point that a percentage of so many images deserves."""
    return 2 if n_test >= 5000 else 1 if n_test >= 100 else 0


def twins(summary: Summary) -> list[tuple[Victim, Victim]]:
    """(hardened, normal) victims of the same network and data."""
    found = defaultdict(list)
    for victim in summary.victims:
        if is_normal(victim.name):
            found[victim.network, victim.data].append(victim)
    others = [victim for victim in summary.victims if not is_normal(victim.name)]
    return [(other, own[0]) for other in others if len(own := found[other.network, other.data]) == 1]


def of_victims(summary: Summary) -> list[str]:
    """What the defense costs the victims' users."""
    if not summary.victims:
        return ["The accuracies of the victims are not among these cells."]
    sentences = []
    for other, normal in twins(summary):
        change = difference(other.group, normal.group, victim_seed)
        digits = decimals(normal.group.cells[0].n_test)
        if change is not None:
            sentences.append(
                f"The {other.name} teacher itself reaches {_mean(change.first, digits)} % on test images, its undefended control "
                f"{_mean(change.second, digits)} %: {_difference(change, digits)}"
            )
    return sentences


def of_section(section: Section) -> list[str]:
    """What the cells of one threat model say: distillation at the highest τ, the best attack found, the headroom."""
    hot = hottest(section)
    sentences = [text for text in (contrast(section, hot, v) for v in hardened(section)) if text] if hot else []
    sentences += [best_text(section, victim) for victim in section.victims if victim != ALONE]
    headroom = _headroom(section)
    return list(dict.fromkeys(sentences + ([headroom] if headroom else [])))


def other_contrasts(section: Section) -> list[str]:
    """The differences that `of_section` leaves out."""
    hot = hottest(section)
    arms = [arm for arm in section.arms if not arm.control and arm is not hot]
    found = [text for arm in arms for v in hardened(section) if (text := contrast(section, arm, v))]
    return list(dict.fromkeys(found))


def hardened(section: Section) -> list[str]:
    """Victims that are neither normal nor absent."""
    return [victim for victim in section.victims if victim != ALONE and not is_normal(victim)]


def normal_in(section: Section) -> str:
    """The name of the victim without a defense; `normal` where there is none, or several of different weights."""
    found = [victim for victim in section.victims if is_normal(victim)]
    return found[0] if len(found) == 1 else NORMAL


def hottest(section: Section) -> Arm | None:
    """The distillation at the highest temperature, the paper's own kind of student."""
    return next((arm for arm in section.arms if arm.attack == "kd"), None)


def best(section: Section, victim: str) -> tuple[Arm, Group] | None:
    """The arm of the highest mean against this victim, lost cells aside."""
    groups = [(arm, group) for arm in section.arms if not arm.control and (group := section.group(arm.name, victim))]
    found = [(arm, group) for arm, group in groups if group.mean is not None]
    return max(found, key=lambda pair: pair[1].mean or 0.0) if found else None


def alone(section: Section) -> Group | None:
    """The baselines."""
    groups = [group for arm in section.arms if (group := section.group(arm.name, ALONE)) and group.n]
    return max(groups, key=lambda group: group.mean or 0.0) if groups else None


def recovery(section: Section) -> list[str]:
    """How much of the loss by distillation at the highest τ other attacks on the same victim recover."""
    control, digits, hot = alone(section), decimals(section.n_test), hottest(section)
    sentences = []
    for victim in hardened(section) if hot else []:
        worst = section.group(hot.name, victim) if hot else None
        loss = difference(control, worst, student_seed)
        if hot is None or loss is None or loss.n < ENOUGH or min(loss.each) <= 0:
            continue
        each = ", ".join(number(value, digits) for value in loss.each)
        text = (
            f"In each of {loss.n} seeds the student of the {victim} teacher by {hot.name} ended below the baseline "
            f"(by {each} points; mean {number(loss.mean, digits)}). Other attacks on the same teacher"
        )
        backs = [
            (arm.name, back.mean)
            for arm in section.arms
            if arm is not hot and not arm.control and (back := difference(section.group(arm.name, victim), worst))
            if back.n == loss.n and back.mean >= loss.mean / 2
        ]
        if backs:
            shares = [f"{name} {'all' if m >= loss.mean else number(m, digits) + ' points'}" for name, m in backs]
            sentences.append(f"{text} recover: {'; '.join(shares)}.")
    return sentences


def doubts(summary: Summary) -> list[str]:
    """Why these numbers may be inconclusive; shown first on the page."""
    found = []
    if summary.sections and summary.fewest < ENOUGH:
        least = "no value at all" if summary.fewest == 0 else f"only {plural(summary.fewest, 'seed')}"
        found.append(
            f"Some results below rest on {least}. From fewer than {ENOUGH} seeds nothing can be concluded: "
            "a difference may be chance."
        )
    lost = summary.lost
    if lost:
        fates = listed(sorted({cell.status if cell.status != "ok" else "without a value" for cell in lost}))
        found.append(
            f"{plural(len(lost), 'cell')} gave no accuracy ({fates}); the tables count them where they belong."
        )
    if not summary.sections:
        found.append("These cells hold no attack.")
    for section in summary.sections:
        if any(_repeats(group) for group in section.groups.values()):
            found.append(
                f"{section.title}: some seeds occur more than once, so these cells come from different victims or runs."
            )
        if alone(section) is None:
            found.append(f"{section.title}: there is no baseline, so the worth of the victim's outputs is unknown.")
    return list(dict.fromkeys(found))


def contrast(section: Section, arm: Arm, victim: str) -> str | None:
    """One attack on a defended victim and its undefended control; None if neither was attacked."""
    digits, name = decimals(section.n_test), f"{arm.name[:1].upper()}{arm.name[1:]}"
    of_victim, normal = section.group(arm.name, victim), section.group(arm.name, normal_in(section))
    if of_victim is None and normal is None:
        return None
    change = difference(of_victim, normal)
    if change is None:
        missing = NORMAL if normal is None or not normal.n else victim
        return f"{name}: no difference, because a student of the {missing} teacher is missing on these seeds."
    return (
        f"{name}: a student of the {victim} teacher reached {_mean(change.first, digits)} %, of the normal one "
        f"{_mean(change.second, digits)} %: {_difference(change, digits)}"
    )


def best_text(section: Section, victim: str) -> str:
    """The best attack on this victim, against the baseline."""
    top, digits = best(section, victim), decimals(section.n_test)
    if top is None:
        return f"No attack on the {victim} teacher gave an accuracy."
    arm, group = top
    tried = sum(1 for a in section.arms if not a.control and section.group(a.name, victim))
    reached = f"{number(group.mean, digits)} % ({arm.name}, {plural(group.n, 'seed')})"
    text = f"Of the {tried} attacks tried on the {victim} teacher none did better than {reached}"
    if tried == 1:
        text = f"The one attack tried on the {victim} teacher reached {reached}"
    change = difference(group, alone(section), student_seed)
    if change is None:
        return f"{text}."
    return f"{text}; the baseline {_mean(change.second, digits)} %: {_difference(change, digits)}"


def _headroom(section: Section) -> str | None:
    """What soft outputs of the normal victim are worth here, and how much of it was removed."""
    digits = decimals(section.n_test)
    soft = [
        (a, g)
        for a in section.arms
        if a.attack not in ("label-only", "scratch") and (g := section.group(a.name, normal_in(section))) and g.n
    ]
    labels = next(
        (
            g
            for a in section.arms
            if a.attack == "label-only" and (g := section.group(a.name, normal_in(section))) and g.n
        ),
        None,
    )
    card = parse_card(section.card)
    if not soft or labels is None or card is None:
        return None
    arm, top = max(soft, key=lambda pair: pair[1].mean or 0.0)
    floor, of, key = labels, "its labels alone", None
    control = alone(section)
    if card.data == "labelled" and control is not None and (control.mean or 0) > (labels.mean or 0):
        floor, of, key = control, "the baseline", student_seed
    room = difference(top, floor, key) if key else difference(top, floor)
    if room is None:
        return None
    text = (
        f"Headroom, the most that a defense which keeps the predicted class can remove: soft outputs of the normal teacher "
        f"({arm.name}) are worth {signed(room.mean, digits)} points over {of}{_spread(room, digits)}."
    )
    if room.n < ENOUGH:
        return text
    if room.sign < 1:
        return f"{text} These seeds do not separate it from 0."
    for victim in hardened(section):
        left = best(section, victim)
        taken = difference(top, left[1]) if left else None
        if taken is not None and taken.n == room.n:
            gone = max(0.0, min(taken.mean, room.mean))
            text += f" Against the best attack found on the {victim} teacher {number(gone, digits)} of these points are removed."
    return text


def apart(points: float, digits: int) -> str:
    """`13.3 points below`, `0.4 points above`, `level with`."""
    size = number(abs(points), digits)
    return "level with" if float(size) == 0 else f"{size} points {'below' if points < 0 else 'above'}"


def reading(change: Paired) -> str:
    """What a difference may be taken for, as the end of a sentence."""
    if change.n < ENOUGH:
        return f"; nothing can be concluded from {plural(change.n, 'seed')}"
    return "" if change.sign else "; these seeds do not separate the two"


def _difference(change: Paired, digits: int) -> str:
    """`difference −5.3 points (paired over …).`, and what may be read from it."""
    text = f"difference {signed(change.mean, digits)} points{_spread(change, digits)}."
    if change.unpaired:
        text += f" {plural(change.unpaired, 'seed')} had no partner or no value."
    if change.n < ENOUGH:
        return f"{text} Nothing can be concluded from {plural(change.n, 'seed')}."
    return text if change.sign else f"{text} The interval contains 0, so these seeds do not separate the two."


def _spread(change: Paired, digits: int) -> str:
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
