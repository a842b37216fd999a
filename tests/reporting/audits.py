"""Judgements as a judge would leave them, without any cells. Their numbers are made up, and the same each time."""

from __future__ import annotations

from typing import Any

from undistill.auditing.result import (
    AttackResult,
    AuditResult,
    Contrast,
    Estimate,
    Flag,
    Line,
    Point,
    ThreatModelResult,
    Verdict,
    VictimResult,
)
from undistill.statistics import interval

HOSTILE = "</script><img src=x onerror=console.error(1)>"
LONG = "a defense whose name is far longer than any column that somebody would ever set aside for it, with τ and ω"
SERVINGS = {"probs": 1.0, "top5:2": 0.8, "top1": 0.35, "label": 0.0}
"""What part of the soft answers' worth a way of serving keeps."""
QUESTIONS = (50, 200, 1000)
FLOOR = {50: 90.4, 200: 94.1, 1000: 96.9}
WORTH = {50: 7.0, 200: 3.2, 1000: 1.1}
NASTY = {"name": "nasty", "omega": 0.04, "temperature": 4.0}
NOISE = (0.3, -0.4, 0.1, -0.2, 0.2)


def estimate(mean: float, *, n: int = 5, half: float = 0.6) -> Estimate:
    """A mean with an interval; none for a single unit."""
    if n < 2:
        return Estimate(mean=round(mean, 4), n=n)
    low, high = round(mean - half, 4), round(mean + half, 4)
    return Estimate(
        mean=round(mean, 4),
        n=n,
        low=low,
        high=high,
        lower=round(mean - 0.8 * half, 4),
        upper=round(mean + 0.8 * half, 4),
    )


def attacker(
    name: str, side: str, mean: float | None, *, reads: str = "soft", n: int = 5, **changes: Any
) -> AttackResult:
    """One attacker; None for one that was lost. Changes are its fields."""
    turn = len(name) + len(side)
    each = (
        ()
        if mean is None
        else tuple(round(mean + NOISE[(k * (1 + turn % 2) + turn) % 5], 4) for k in range(n))
        if n > 1
        else (mean,)
    )
    values: dict[str, Any] = {
        "name": name,
        "attack": name.split(",")[0],
        "side": side,
        "role": {"soft": "soft", "labels": "labels", "nothing": "alone"}[reads],
        "reads": reads,
        "accuracy": None if mean is None else estimate(mean, n=n),
        "each": each,
        "held_out": None if mean is None or reads == "nothing" else mean - 0.5,
        "lost": n if mean is None else 0,
        "queries": 0 if reads == "nothing" else 200,
        **changes,
    }
    return AttackResult.model_validate(values)


def attackers(serving: str, questions: int, *, taken: float, twin: bool, n: int) -> tuple[AttackResult, ...]:
    """Those of one card. `taken` is the share of the soft answers' worth that the defense keeps from them."""
    floor, worth = FLOOR[questions], WORTH[questions] * SERVINGS[serving]
    soft = {"KD, τ 4, α 1": 1.0, "KD, τ 1, α 1": 0.6, "decoupled": 0.8, "sanitise, second peak": 0.55} if worth else {}
    found = []
    for place, (name, share) in enumerate(soft.items()):
        turned = 1 - taken * (1.4 if place == 0 else 1)
        found.append(attacker(name, "defended", floor + worth * share * turned, n=n, chosen=place == 2))
        if twin:
            found.append(attacker(name, "undefended", floor + worth * share, n=n, chosen=place == 0))
    found.append(attacker("label-only", "defended", floor, reads="labels", n=n, chosen=True))
    found.append(attacker("label-smooth", "defended", floor - 0.3, reads="labels", n=n))
    if twin:
        found.append(attacker("label-only", "undefended", floor - 0.1, reads="labels", n=n, chosen=True))
    found.append(attacker("student alone", "alone", floor + 0.4, reads="nothing", n=n, chosen=True))
    return tuple(found)


def with_gains(given: tuple[AttackResult, ...]) -> tuple[AttackResult, ...]:
    """Those of one card with what each gains over the chosen label-only attack."""
    own = [t for t in given if t.side == "defended" and t.reads == "labels" and t.accuracy]
    floor = next((t for t in own if t.chosen), own[0] if own else None)
    found = []
    for t in given:
        n = 0 if floor is None or t is floor or t.lost else min(len(t.each), len(floor.each))
        gain = None
        if n and floor is not None:
            d = interval([a - b for a, b in zip(t.each[:n], floor.each[:n], strict=True)])
            ends = {"low": d.low, "high": d.high, "lower": d.lower, "upper": d.upper} if d.finite else {}
            gain = Estimate(mean=d.mean, n=n, **ends)
        found.append(t if gain is None else t.model_copy(update={"gain": gain}))
    return tuple(found)


def card(
    serving: str = "probs", questions: int = 200, *, taken: float = 0.7, twin: bool = True, n: int = 5, **changes: Any
) -> ThreatModelResult:
    """One card's result; changes are its fields."""
    own = with_gains(changes.pop("attackers", None) or attackers(serving, questions, taken=taken, twin=twin, n=n))
    best = max((t for t in own if t.side == "defended" and t.accuracy), key=_mean, default=None)
    other = max((t for t in own if t.side == "undefended" and t.accuracy), key=_mean, default=None)
    floor, worth = FLOOR[questions], WORTH[questions] * SERVINGS[serving]
    written = f"{serving}/unlabelled(1.0)/fresh/random/{questions}"
    verdict: Verdict = "nothing to defend" if worth < 1 else "partial" if taken < 1 else "reduced to labels"
    values: dict[str, Any] = {
        "id": written.replace("/", "-"),
        "card": written,
        "serving": serving,
        "questions": questions,
        "images": questions,
        "labelled": False,
        "title": f"Served as {serving}, {questions:,} questions",
        "sentence": _sentence(serving, questions, best, len(own)),
        "thieves": own,
        "best": best.name if best else None,
        "best_undefended": other.name if other else None,
        "A_def": best.accuracy if best else None,
        "A_label": estimate(floor, n=n),
        "exposure": round(100 * _mean(best) / 98.6, 4) if best else None,
        "exposure_undefended": round(100 * _mean(other) / 99.2, 4) if other else None,
        "label_equivalents": min(4000.0, questions * (1.2 + 3 * worth / 7)),
        "label_equivalents_beyond": questions == 1000 and serving == "probs",
        "headroom": estimate(worth, n=n) if twin else None,
        "took": estimate(worth * taken, n=n) if twin else None,
        "removed": 100 * taken if twin and worth > 2 else None,
        "contrasts": (
            Contrast(
                name="A_soft − A_label",
                about="what reading more than labels gains",
                estimate=estimate(worth * (1 - taken), n=n),
            ),
        )
        if twin and worth
        else (),
        "verdict": verdict if twin and n > 1 else None,
        "why": "the lower bound of what was taken is above nothing" if twin and worth > 2 else "",
        "search": search(floor, worth, taken, twin=twin) if worth else {},
        "tried": 14,
        **changes,
    }
    return ThreatModelResult.model_validate(values)


def search(floor: float, worth: float, taken: float, *, twin: bool) -> dict[str, tuple[Point, ...]]:
    """The temperature response: the defense bites at high τ."""
    hot = {1.0: 0.5, 2.0: 0.9, 4.0: 1.0, 8.0: 0.95, 20.0: 0.8}
    found = {
        "defended": tuple(
            Point(x=t, y=floor + worth * (s * (1 - taken) - 0.1 * (t > 2) * t / 4)) for t, s in hot.items()
        )
    }
    if twin:
        found["undefended"] = tuple(Point(x=t, y=floor + worth * s) for t, s in hot.items())
    return found


def victim(name: str, side: str, serving: str = "probs", **changes: Any) -> VictimResult:
    """One victim as it is served."""
    nasty = side == "defended"
    values: dict[str, Any] = {
        "name": name,
        "side": side,
        "label": name,
        "network": "resnet8",
        "defense": NASTY if nasty else {},
        "serving": serving,
        "accuracy": 98.6 if nasty else 99.2,
        "top5": None if serving in ("top1", "label") else 99.9 if nasty else 100.0,
        "nll": None if serving == "label" else 0.21 if nasty else 0.04,
        "ece": 4.1 if nasty else 0.9,
        "brier": 3.9 if nasty else 1.4,
        "spread": 4.8 if nasty else 3.1,
        "second": {str(float(t)): v * (3 if nasty else 1) / 100 for t, v in ((1, 0.4), (4, 9.5), (20, 28.0))}
        if serving == "probs"
        else {},
        "n_test": 497,
        "cell": f"{name}-{serving}",
    }
    return VictimResult.model_validate({**values, **changes})


def line(place: int, **changes: Any) -> Line:
    """One planned cell."""
    values: dict[str, Any] = {
        "key": f"{place:016x}",
        "cell": f"c{place:07x}",
        "side": ("defended", "undefended", "alone")[place % 3],
        "role": "soft",
        "victim": "nasty",
        "attack": ("kd", "label-only", "decoupled")[place % 3],
        "settings": f"τ {(1, 4, 20)[place % 3]}",
        "student": "cnn, width 0.25",
        "card": "probs/unlabelled(1.0)/fresh/random/200",
        "seed": place % 5,
        "phase": "report",
        "accuracy": None if place % 7 == 3 else 90.0 + (place * 37 % 80) / 10,
        "held_out": None,
        "queries": (50, 200, 1000)[place % 3],
        "seconds": 1.5 * place,
        "status": "failed" if place % 7 == 3 else "ok",
        "why": "the loss was not finite" if place % 7 == 3 else "",
        "command": f"undistill audit cell audits/nasty {place:016x}",
    }
    return Line.model_validate({**values, **changes})


def flags(cards: tuple[ThreatModelResult, ...]) -> tuple[Flag, ...]:
    """Two about everything, one about the first card."""
    return (
        Flag(name="one architecture", about="every attacker is a cnn, width 0.25"),
        Flag(name="no public weights", about="every attacker started from random weights", cells=("a", "b")),
        Flag(
            name="temperature masking",
            about="τ 1 gets 2.1 points more than the τ 4 of its training",
            threat_model=cards[0].id,
        ),
    )


def judgement(*, twin: bool = True, n: int = 5, taken: float = 0.7, **changes: Any) -> AuditResult:
    """A whole one: four ways of serving, three numbers of questions."""
    cards = changes.pop("cards", None) or tuple(
        card(serving, questions, taken=taken, twin=twin, n=n) for serving in SERVINGS for questions in QUESTIONS
    )
    served = dict.fromkeys(c.access for c in cards)
    victims = [victim("nasty", "defended", serving) for serving in served]
    victims += [victim("normal", "undefended", serving) for serving in served] if twin else []
    values: dict[str, Any] = {
        "title": "What does an attacker get from nasty?",
        "suite": "standard@1",
        "question": "model",
        "verdicts": True,
        "delta": 2.0,
        "resolves": 1.4,
        "measured_half_width": 0.6,
        "units": n,
        "victims": tuple(victims),
        "cards": cards,
        "learning": tuple(
            Point(x=x, y=y, low=y - 0.7, high=y + 0.7)
            for x, y in ((25, 84.0), (50, 90.8), (100, 93.0), (200, 94.5), (400, 95.9), (1000, 97.2))
        ),
        "flags": flags(cards),
        "not_tried": (
            "No attacker started from public weights: none were given.",
            "No attacker that knows this defense was written.",
            "An attack that nobody has thought of cannot be tried.",
        ),
        "lines": tuple(map(line, range(24))),
        "provenance": {"data": "digits", "fingerprint": "abc123", "undistill": "0.1.0", "torch": "2.13.0+cpu"},
        "commands": ("undistill audit runs/nasty --control runs/normal --suite standard -o audits/nasty",),
        "planned": 24,
        "done": 24,
        "failed": 3,
        "seconds": 1234.5,
    }
    return AuditResult.model_validate({**values, **changes})


def hostile() -> AuditResult:
    """Every name is an attack on the page."""
    own = (
        attacker(HOSTILE, "defended", 94.0),
        attacker(LONG, "undefended", 95.0),
        attacker("学生", "alone", 93.0, reads="nothing"),
        attacker("lost", "defended", None),
    )
    cards = (card(attackers=own, title=HOSTILE, sentence=HOSTILE, why=HOSTILE, card=HOSTILE, id="x"), card("label", 50))
    return judgement(
        title=HOSTILE,
        suite=HOSTILE,
        cards=cards,
        victims=(victim(HOSTILE, "defended", HOSTILE), victim(LONG, "undefended")),
        flags=(Flag(name=HOSTILE, about=HOSTILE, threat_model="x"), Flag(name=LONG, about="{{ 7 * 7 }}")),
        not_tried=(HOSTILE,),
        lines=(line(0, attack=HOSTILE, command=HOSTILE, why=HOSTILE), line(1)),
        provenance={HOSTILE: HOSTILE},
        commands=(HOSTILE, "```\n# broken out"),
    )


def _mean(found: AttackResult | None) -> float:
    return found.accuracy.mean if found is not None and found.accuracy is not None else -1.0


def _sentence(serving: str, questions: int, best: AttackResult | None, count: int) -> str:
    if best is None or best.accuracy is None:
        return f"With {questions:,} unlabelled photos and your {serving}, no attacker was measured."
    found = best.accuracy
    sure = f" (95 %: {found.low:.1f}–{found.high:.1f})" if found.low is not None else ""
    return (
        f"With {questions:,} unlabelled photos and your {serving}, the best of {count} attackers reached "
        f"{found.mean:.1f} %{sure}; your model has 98.6."
    )
