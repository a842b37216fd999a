"""The report of attacks: what students of each victim reach under each threat model, and what their differences allow to say."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from undistill.errors import UsageError
from undistill.experiments.cell import Cell, collect, read_arrays
from undistill.reporting import charts, export, render
from undistill.reporting.document import (
    Block,
    Chart,
    Details,
    Document,
    Format,
    Items,
    Note,
    Section,
    Statement,
    Table,
    Text,
    Value,
    table,
)
from undistill.reporting.export import Report, link
from undistill.reporting.naming import (
    ALONE,
    ENVIRONMENT,
    NORMAL,
    arm_text,
    card_sentence,
    decimals,
    is_normal,
    listed,
    network_text,
    number,
    parse_card,
    plural,
    signed,
)
from undistill.reporting.paired import Paired, difference, student_seed, victim_seed
from undistill.reporting.response import Response, response
from undistill.reporting.response import section as response_section
from undistill.reporting.summary import Arm, Group, Summary, Victim, summarize
from undistill.reporting.summary import Section as Students
from undistill.reporting.theme import colour_variable
from undistill.statistics import ENOUGH
from undistill.threat_model import Access

TITLE = "How hard is this classifier to copy?"
LEGEND = "Accuracy in percent, mean ± standard deviation of n seeds."
KINDS = {"victim": "teacher", "cell": "attack", "control": "control", "figure": "figure"}
CURVE_ROWS = 20
"""Epochs that a table of a curve shows at most."""


def write_attacks(folders: Sequence[Path], out: Path) -> Report:
    """Write the report of all cells below `folders`; UsageError where there are none, RunError for a damaged one."""
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"{folder} is no folder; name one that holds cells, such as a demo's or the output of `undistill attack`"
            )
    found = list(collect(folders))
    if not found:
        raise UsageError(
            f"no cells below {', '.join(map(str, folders)) or 'no folder'}; the demo and `undistill attack` write them"
        )
    summary, places = summarize(cell for _, cell in found), {cell.id: folder for folder, cell in found}
    links = {cell.id: link(folder / f"{cell.id}.json", out) for folder, cell in found}
    whole = document(summary, _responses(summary, places), links)
    return export.write(whole, out, render.text(_brief(summary)))


def _responses(summary: Summary, places: Mapping[str, Path]) -> list[Response]:
    """One figure a pair of victims: that of the lowest seed."""
    chosen: dict[str, Cell] = {}
    for cell in summary.figures:
        if cell.attack == "logit-response" and cell.arrays is not None:
            chosen.setdefault(f"{cell.experiment} {cell.data} {summary.name_of[cell.id]}", cell)
    return [
        response(cell, read_arrays(places[cell.id], cell), summary.name_of[cell.id], list(summary.names))
        for cell in chosen.values()
    ]


def document(summary: Summary, responses: Sequence[Response] = (), links: Mapping[str, str] | None = None) -> Document:
    """The report. `links` are addresses of cells by id, relative to the page."""
    users = Section("Teachers", "teachers", (teachers(summary), Items(tuple(of_victims(summary)))))
    trained = tuple(_training(summary))
    return Document(
        title=TITLE,
        eyebrow="undistill report",
        lead=(*map(Note, doubts(summary)), *_lead(summary)),
        sections=(
            *((users,) if summary.victims else ()),
            *(_section(place, each, summary, links or {}) for place, each in enumerate(summary.sections)),
            *(response_section(place, figure, summary.names) for place, figure in enumerate(responses)),
            *((Section("Training", "training", trained, folded=True),) if trained else ()),
            Section("What this does not show", "limits", (Items(tuple(limits(summary))),)),
            Section("Files of cells", "files", (_files(summary, links or {}),), folded=True),
        ),
        provenance=provenance(summary),
        commands=tuple(commands(summary)),
        files={"report.json": "report.json", "report.md": "report.md"},
    )


def _brief(summary: Summary) -> Document:
    """What fits on a terminal."""
    tables = [*([teachers(summary)] if summary.victims else []), *(results(each, summary) for each in summary.sections)]
    return Document(TITLE, (*tables, *map(Note, doubts(summary))))


# the first screen


def _lead(summary: Summary) -> Iterator[Block]:
    """What was done, then a statement a threat model."""
    names = [name for name in summary.names if name != ALONE]
    if summary.victims:
        seeds = max(len(victim.group.cells) for victim in summary.victims)
        notes = sorted({victim.data_note or "unnamed data" for victim in summary.victims})
        yield Text(
            f"Teachers ({listed(names)}) were trained on {listed(notes)}, with {plural(seeds, 'seed')} each.", "lead"
        )
    if not summary.sections:
        yield Text("These cells hold no attacks.", "lead")
    for each in summary.sections:
        found = [text for text in (contrast(each, hottest(each), victim) for victim in hardened(each)) if text]
        best_of = [best_text(each, victim) for victim in each.victims if victim != ALONE]
        yield Statement(each.title, " ".join([*found[:1], *best_of[-1:]]))


def doubts(summary: Summary) -> list[str]:
    """Why these numbers may be inconclusive."""
    found = []
    if summary.sections and summary.fewest < ENOUGH:
        least = "no value at all" if summary.fewest == 0 else f"only {plural(summary.fewest, 'seed')}"
        found.append(
            f"Some results below rest on {least}. From fewer than {ENOUGH} seeds nothing can be concluded: "
            "a difference may be chance."
        )
    if summary.lost:
        fates = listed(sorted({cell.status if cell.status != "ok" else "without a value" for cell in summary.lost}))
        found.append(
            f"{plural(len(summary.lost), 'cell')} gave no accuracy ({fates}); the tables count them where they belong."
        )
    for each in summary.sections:
        if any(_repeats(group) for group in each.groups.values()):
            found.append(
                f"{each.title}: some seeds occur more than once, so these cells come from different victims or runs."
            )
        if alone(each) is None:
            found.append(f"{each.title}: there is no baseline, so the worth of the victim's outputs is unknown.")
    return list(dict.fromkeys(found))


# sentences, each computed from cells


def of_victims(summary: Summary) -> list[str]:
    """What a defense costs the victims' users."""
    sentences = []
    for other, normal in controls(summary):
        change = difference(other.group, normal.group, victim_seed)
        digits = decimals(normal.group.cells[0].n_test)
        if change is not None:
            sentences.append(
                f"Users of the {other.name} teacher get {_mean(change.first, digits)} %, of its undefended control "
                f"{_mean(change.second, digits)} %, {_change(change, digits)}"
            )
    return sentences


def controls(summary: Summary) -> list[tuple[Victim, Victim]]:
    """(defended, undefended) victims of one network and data."""
    found = defaultdict(list)
    for victim in summary.victims:
        if is_normal(victim.name):
            found[victim.network, victim.data].append(victim)
    others = [victim for victim in summary.victims if not is_normal(victim.name)]
    return [(other, own[0]) for other in others if len(own := found[other.network, other.data]) == 1]


def of_students(each: Students) -> list[str]:
    """What the cells of one threat model say: distillation at the highest τ, the best attack found, the headroom."""
    sentences = [text for victim in hardened(each) if (text := contrast(each, hottest(each), victim))]
    sentences += [best_text(each, victim) for victim in each.victims if victim != ALONE]
    return list(dict.fromkeys([*sentences, *filter(None, [headroom(each)])]))


def other_contrasts(each: Students) -> list[str]:
    """The differences that `of_students` leaves out."""
    arms = [arm for arm in each.arms if not arm.control and arm is not hottest(each)]
    return list(dict.fromkeys(text for arm in arms for v in hardened(each) if (text := contrast(each, arm, v))))


def hardened(each: Students) -> list[str]:
    """Victims that are neither undefended nor absent."""
    return [victim for victim in each.victims if victim != ALONE and not is_normal(victim)]


def normal_in(each: Students) -> str:
    """The name of the victim without a defense; `normal` where there is none, or several of different weights."""
    found = [victim for victim in each.victims if is_normal(victim)]
    return found[0] if len(found) == 1 else NORMAL


def hottest(each: Students) -> Arm | None:
    """The distillation at the highest temperature, the paper's own kind of student."""
    return next((arm for arm in each.arms if arm.attack == "kd"), None)


def best(each: Students, victim: str) -> tuple[Arm, Group] | None:
    """The arm of the highest mean against this victim, lost cells aside."""
    found = [(arm, g) for arm in each.arms if not arm.control and (g := each.group(arm.name, victim)) and g.n]
    return max(found, key=lambda pair: pair[1].mean or 0.0) if found else None


def alone(each: Students) -> Group | None:
    """The baseline; the better one of several."""
    groups = [group for arm in each.arms if (group := each.group(arm.name, ALONE)) and group.n]
    return max(groups, key=lambda group: group.mean or 0.0) if groups else None


def contrast(each: Students, arm: Arm | None, victim: str) -> str | None:
    """One attack on a defended victim and its undefended control; None if neither was attacked."""
    if arm is None:
        return None
    digits, name = decimals(each.n_test), f"{arm.name[:1].upper()}{arm.name[1:]}"
    of_victim, normal = each.group(arm.name, victim), each.group(arm.name, normal_in(each))
    if of_victim is None and normal is None:
        return None
    change = difference(of_victim, normal)
    if change is None:
        missing = NORMAL if normal is None or not normal.n else victim
        return f"{name}: no difference, because a student of the {missing} teacher is missing on these seeds."
    return (
        f"{name}: {_mean(change.first, digits)} % from the {victim} teacher, {_mean(change.second, digits)} % from the normal one, "
        f"{_change(change, digits)}"
    )


def best_text(each: Students, victim: str) -> str:
    """The best attack on this victim, against the baseline."""
    top, digits = best(each, victim), decimals(each.n_test)
    if top is None:
        return f"No attack on the {victim} teacher gave an accuracy."
    arm, group = top
    tried = sum(1 for a in each.arms if not a.control and each.group(a.name, victim))
    which = f"The best of {tried} attacks" if tried > 1 else "The one attack"
    text = f"{which} on the {victim} teacher reached {number(group.mean, digits)} % ({arm.name}, {plural(group.n, 'seed')})"
    change = difference(group, alone(each), student_seed)
    if change is None:
        return f"{text}."
    return f"{text}, the baseline {_mean(change.second, digits)} %, {_change(change, digits)}"


def headroom(each: Students) -> str | None:
    """What soft outputs of the undefended victim are worth here, and how much of it was removed."""
    digits, normal, card = decimals(each.n_test), normal_in(each), parse_card(each.card)
    found = [(a, g) for a in each.arms if a.attack != "scratch" and (g := each.group(a.name, normal)) and g.n]
    soft = [pair for pair in found if pair[0].attack != "label-only"]
    labels = next((group for arm, group in found if arm.attack == "label-only"), None)
    if not soft or labels is None or card is None:
        return None
    arm, top = max(soft, key=lambda pair: pair[1].mean or 0.0)
    room, of = difference(top, labels), "its predicted classes alone"
    control = alone(each)
    if card.data == "labelled" and control is not None and (control.mean or 0) > (labels.mean or 0):
        room, of = difference(top, control, student_seed), "the baseline"
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
    for victim in hardened(each):
        left = best(each, victim)
        taken = difference(top, left[1]) if left else None
        if taken is not None and taken.n == room.n:
            gone = max(0.0, min(taken.mean, room.mean))
            text += f" Against the best attack found on the {victim} teacher {number(gone, digits)} of these points are removed."
    return text


def limits(summary: Summary) -> list[str]:
    """What these cells do not show."""
    notes = sorted({cell.data_note for cell in summary.cells if cell.data_note})
    cards = [card for each in summary.sections if (card := parse_card(each.card))]
    students = sorted(
        {network_text(c.student, c.student_settings) for s in summary.sections for c in s.cells if c.student}
    )
    found = [f"Other data than {listed(notes) or 'these'}: results may differ on larger images or other classes."]
    if students:
        found.append(f"Other networks: students are {listed(students)}. A larger or pretrained student may get more.")
        found.append(
            "The best possible attack: each attack ran at the settings shown, without a search. Accuracies are lower bounds on "
            "what an attacker gets, and the best of few means is selected on the test images for which it is reported."
        )
    if any(card.pool == "trained" for card in cards):
        found.append(
            "Attackers outside: on its own training images a victim's predicted class is nearly always the true label. Fresh "
            "images are closer to what an outside attacker holds."
        )
    if any(card.data == "unlabelled" for card in cards):
        found.append(
            "A baseline available to an attacker without labels: the baseline was trained on the true labels of the same images."
        )
    if cards and not any(card.access == Access.WEIGHTS for card in cards):
        found.append("A release of weights: no attack had the victim's weights.")
    return found


def _change(change: Paired, digits: int) -> str:
    """`−5.3 points (95 %: −6.1 to −4.5; 3 seeds).`, and what may be read from it."""
    text = f"{signed(change.mean, digits)} points{_spread(change, digits)}"
    if change.n < ENOUGH:
        text += f"; nothing can be concluded from {plural(change.n, 'seed')}"
    elif not change.sign:
        text += ", no measurable difference"
    lost = f" {plural(change.unpaired, 'seed')} had no partner or no value." if change.unpaired else ""
    return f"{text}.{lost}"


def _spread(change: Paired, digits: int) -> str:
    if change.interval is None:
        return ""
    low, high = change.interval
    return f" (95 %: {signed(low, digits)} to {signed(high, digits)}; {change.n} seeds)"


def _mean(values: tuple[float, ...], digits: int) -> str:
    return number(sum(values) / len(values), digits)


def _repeats(group: Group) -> bool:
    seeds = [tuple(sorted(cell.seeds.items())) for cell in group.cells]
    return len(set(seeds)) < len(seeds)


# tables and charts


def _section(place: int, each: Students, summary: Summary, links: Mapping[str, str]) -> Section:
    """One threat model and kind of student."""
    others = other_contrasts(each)
    body: list[Block] = [
        Text(card_sentence(each.card, each.cells)),
        results(each, summary),
        *([_dots(place, each, summary)] if any(group.n for group in each.groups.values()) else []),
        Items(tuple(of_students(each))),
        *([Details("Other differences", (Items(tuple(others)),))] if others else []),
        Details("Every cell", (every_cell(place, each, summary, links),)),
    ]
    about = f" ({each.about})" if each.about else ""
    return Section(f"{each.title}: student {each.student}{about}", f"section-{place}", tuple(body))


def teachers(summary: Summary) -> Table:
    """The victims themselves."""
    rows = [{"teacher": v.name, "network": v.network, **_value("accuracy", v.group)} for v in summary.victims]
    digits = max((decimals(victim.group.cells[0].n_test) for victim in summary.victims), default=1)
    columns = {"teacher": Format(), "network": Format(), "accuracy": Format("", digits, "%", note="accuracy spread")}
    return table("teachers", f"Teachers. {LEGEND}", rows, columns)


def results(each: Students, summary: Summary) -> Table:
    """A line an arm, a column a victim."""
    digits = decimals(each.n_test)
    rows: list[dict[str, Value]] = []
    for arm in each.arms:
        row: dict[str, Value] = {"student": arm.name}
        for victim in each.victims:
            row |= _value(victim, each.group(arm.name, victim))
        rows.append(row)
    columns = {"student": Format()} | {
        victim: Format(
            "baseline" if victim == ALONE else f"from {victim}",
            digits,
            note=f"{victim} spread",
            color=colour_variable(victim, summary.names),
        )
        for victim in each.victims
    }
    caption = f"{each.title}, student {each.student}, {each.n_test:,} test images. {LEGEND}"
    return table(f"{each.card} {each.student}", caption, rows, columns)


def _value(name: str, group: Group | None) -> dict[str, Value]:
    """A mean, with its spread and what was lost as the words beside it."""
    if group is None:
        return {name: None, f"{name} spread": ""}
    digits = decimals(group.cells[0].n_test)
    spread = "" if group.sd is None else f"± {number(group.sd, digits)}"
    spread = ", ".join(filter(None, (spread, f"n = {group.n}" if group.n else "")))
    reported = "" if group.reported is None else f"reported {number(group.reported, digits)}"
    return {name: group.mean, f"{name} spread": ", ".join(filter(None, (spread, group.lost_text, reported)))}


def _dots(place: int, each: Students, summary: Summary) -> Chart:
    caption = "Every point is one seed, a tick their mean. The axis starts near the lowest point."
    lost = sum(sum(group.lost.values()) for group in each.groups.values())
    caption += f" {lost} without an accuracy cannot be drawn." if lost else ""
    return Chart(f"dots-{place}", "Accuracy of every student", charts.dots(each, summary.names), caption)


def every_cell(place: int, each: Students, summary: Summary, links: Mapping[str, str]) -> Table:
    """Each cell of a threat model with all its numbers."""
    rows: list[dict[str, Value]] = [
        {
            "student": arm_text(cell.attack, cell.attack_settings, control=cell.kind == "control"),
            "victim": summary.name_of[cell.id],
            "seeds": _seeds(cell),
            "accuracy": cell.accuracy,
            "fidelity": cell.agreement,
            "NLL": cell.nll,
            "ECE": cell.ece,
            "queries": cell.queries,
            "status": cell.status + (f": {cell.why}" if cell.why else ""),
            "cell": cell.id,
            "file": links.get(cell.id, ""),
        }
        for cell in each.cells
    ]
    percent = Format("", decimals(each.n_test) + 1, "%")
    columns = dict.fromkeys(("student", "victim", "seeds"), Format()) | dict.fromkeys(("accuracy", "fidelity"), percent)
    columns |= {"NLL": Format("", 3, "nats"), "ECE": percent, "queries": Format(), "status": Format()}
    columns |= {"cell": Format(link="file")}
    about = "Fidelity: the share of test images on which student and victim name the same class."
    return table(f"cells-{place}", about, rows, columns, sortable=True)


def _files(summary: Summary, links: Mapping[str, str]) -> Table:
    rows: list[dict[str, Value]] = [
        {
            "cell": cell.id,
            "kind": KINDS[cell.kind],
            "victim": summary.name_of[cell.id],
            "seeds": _seeds(cell),
            "file": links.get(cell.id, "not found"),
        }
        for cell in summary.cells
    ]
    columns = {**dict.fromkeys(("cell", "kind", "victim", "seeds"), Format()), "file": Format(link="file")}
    return table("files", "", rows, columns, sortable=True)


def _training(summary: Summary) -> Iterator[Block]:
    """Training curves: teachers, then the students of each threat model, an arm a chart."""
    lines = charts.series((cell for victim in summary.victims for cell in victim.group.cells), summary.name_of)
    panels = [("Teachers", lines)] if lines else []
    for each in summary.sections:
        own = [cell for cell in each.cells if cell.kind == "control"]
        for arm in each.arms:
            cells = [cell for v in each.victims if (g := each.group(arm.name, v)) for cell in g.cells]
            if not arm.control or len(own) == len(each.cells):
                title = f"{each.title}, {arm.name}"
                panels.append((title, charts.series(cells if arm.control else [*own, *cells], summary.name_of)))
    for place, (title, found) in enumerate(panels):
        for measure, name in charts.NAMES.items():
            kept = {who: cells for who, cells in found.items() if charts.measured({who: cells}, measure)}
            if kept:
                spec = charts.curves(kept, summary.names, measure, title)
                numbers = _curve(f"curve-{place}-{measure}", kept, measure)
                yield Chart(f"{measure}-{place}", f"{title}: {name.lower()}", spec, numbers=numbers)


def _curve(name: str, lines: charts.Series, measure: charts.Measure) -> Table:
    columns = {who: dict(charts.mean_curve(cells, measure)) for who, cells in lines.items()}
    epochs = sorted({epoch for column in columns.values() for epoch in column})
    step = max(1, -(-len(epochs) // CURVE_ROWS))
    kept = [epoch for place, epoch in enumerate(epochs, start=1) if place % step == 0 or place in (1, len(epochs))]
    rows: list[dict[str, Value]] = [
        {"epoch": epoch, **{who: column.get(epoch) for who, column in columns.items()}} for epoch in kept
    ]
    form = Format(digits=1 if measure == "accuracy_val" else 3)
    return table(name, "Mean of the seeds.", rows, {"epoch": Format(), **dict.fromkeys(columns, form)})


# provenance


def provenance(summary: Summary) -> dict[str, str]:
    """What fixes the numbers, and what computed them."""
    cells = summary.cells
    seeds: dict[str, set[int]] = defaultdict(set)
    for cell in cells:
        for who, seed in cell.seeds.items():
            seeds[who].add(seed)
    counts = [(name, sum(cell.kind == kind for cell in cells)) for kind, name in KINDS.items()]
    notes = {f"{cell.data_note or 'unnamed'} (fingerprint {cell.data or 'unknown'})" for cell in cells}
    facts = {
        "data": listed(sorted(notes)),
        "test images": listed([f"{count:,}" for count in sorted({cell.n_test for cell in cells})], "or"),
        "cells": ", ".join(plural(count, name) for name, count in counts if count),
        "seeds": "; ".join(f"{who} {', '.join(map(str, sorted(found)))}" for who, found in sorted(seeds.items())),
        "training": listed(sorted({text for cell in cells if (text := _trained(cell))})) or "not recorded",
        "threat models": listed(sorted({cell.card for cell in cells if cell.card})) or "none",
        "time": f"{sum(cell.seconds for cell in cells):,.0f} seconds in all cells together",
    }
    for name, title in ENVIRONMENT.items():
        found = sorted({str(cell.env[name]) for cell in cells if cell.env.get(name) is not None})
        facts[title] = listed(found, "or") or "unknown"
    return facts


def commands(summary: Summary) -> list[str]:
    """Command lines that compute these cells again."""
    attacked = [cell for each in summary.sections for cell in each.cells if cell.experiment == "attack"]
    return list(dict.fromkeys(_command(cell) for cell in attacked))


def _command(cell: Cell) -> str:
    parts = ["undistill", "attack", "MODEL", "--attack", cell.attack, "--student", cell.student]
    parts += ["--threat-model", cell.card]
    parts += ["--seed", str(cell.seeds.get("student", 0)), "--out", "FOLDER"]
    for prefix, settings in (("attack", cell.attack_settings), ("student", cell.student_settings)):
        for key, value in settings.items():
            parts += ["-s", f"{prefix}.{key}={value:g}" if isinstance(value, float) else f"{prefix}.{key}={value}"]
    return shlex.join(parts)


def _trained(cell: Cell) -> str:
    training: Any = cell.recipe.get("training", {})
    if not isinstance(training, dict) or "epochs" not in training:
        return ""
    who = "teachers" if cell.kind == "victim" else "students"
    passes = training.get("passes", 1)
    again = f" of {passes} passes" if passes != 1 else ""
    return f"{who} {training['epochs']} epochs{again}" + (f" ({cell.card})" if cell.card else "")


def _seeds(cell: Cell) -> str:
    return ", ".join(f"{who} {seed}" for who, seed in sorted(cell.seeds.items())) or "–"
