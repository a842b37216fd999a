"""What an attacker sees and holds: access levels and threat models. Never imports torch."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from undistill.errors import UsageError


class Access(IntEnum):
    """What a victim's owner gives out; a larger value contains all that a smaller one shows."""

    LABEL = 0
    TOPK = 1
    PROBS = 2
    LOGITS = 3
    WEIGHTS = 4

    @property
    def label(self) -> str:
        """The name used in threat models: `logits`."""
        return self.name.lower()

    @classmethod
    def parse(cls, name: str) -> Access:
        """Read `logits`, `probs`, …; UsageError otherwise."""
        if name.upper() not in cls.__members__:
            raise UsageError(f"no access called {name!r}; there are {', '.join(a.label for a in cls)}")
        return cls[name.upper()]


class ThreatModel(BaseModel):
    """A threat model: output access × data the attacker holds × pool × start × query budget.

    Output access is more than its level: at `TOPK` the `top` classes are returned, `digits` are those of a probability
    (`top5:2`, `top1`, `probs:1`); None for five classes and for all digits. `start`: the attacker's network begins with random
    weights, or with `public` ones.

    `share` is the part of the pool that the attacker holds. `questions`, the query budget: None for one query for each view of each
    image (the paper's case: 160 epochs × 50,000 images are 8 M queries); a number Q for at most Q images, each queried once.
    `unqueried`: images of the pool that the attacker holds beyond its budget, without labels (`/50+1000`). Data
    `none` is an attacker without images, who queries nothing: `weights/none/none/random`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    access: Access = Access.LOGITS
    data: Literal["labelled", "unlabelled", "none"] = "labelled"
    share: float = Field(1.0, gt=0, le=1)
    pool: Literal["trained", "fresh", "none"] = "trained"
    start: Literal["random", "public"] = "random"
    questions: int | None = Field(None, ge=1)
    unqueried: int = Field(0, ge=0)
    top: int | None = Field(None, ge=1)
    digits: int | None = Field(None, ge=0, le=9)

    @model_validator(mode="after")
    def _served_as_the_access_allows(self) -> ThreatModel:
        if self.top is not None and self.access is not Access.TOPK:
            raise ValueError(f"a number of classes belongs to topk, not to {self.access.label}")
        if self.digits is not None and self.access not in (Access.TOPK, Access.PROBS):
            raise ValueError(f"probabilities alone are rounded to digits, not {self.access.label}")
        return self

    @model_validator(mode="after")
    def _budget_needs_no_share(self) -> ThreatModel:
        if self.questions is not None and self.share != 1.0:
            raise ValueError("a threat model takes either a share of the pool or a query budget, not both")
        if self.questions is None and self.unqueried:
            raise ValueError("without a query budget every image is queried; write one, as in /50+1000")
        return self

    @model_validator(mode="after")
    def _no_images_no_pool(self) -> ThreatModel:
        if (self.data == "none") != (self.pool == "none"):
            raise ValueError(f"an attacker has a pool or no images: data {self.data} does not go with pool {self.pool}")
        if self.data == "none" and self.questions is not None:
            raise ValueError("an attacker without images queries nothing: leave the query budget out")
        if self.data == "none" and self.share != 1.0:
            raise ValueError("an attacker without images holds no share of a pool: leave it out")
        return self

    def __str__(self) -> str:
        """`logits/labelled(1.0)/trained/random`, and behind it `/50` for 50 queries, `/50+1000` with 1,000 more images."""
        held = "none" if self.data == "none" else f"{self.data}({self.share})"
        more = f"+{self.unqueried}" if self.unqueried else ""
        budget = "" if self.questions is None else f"/{self.questions}{more}"
        return f"{self.serving}/{held}/{self.pool}/{self.start}{budget}"

    @property
    def serving(self) -> str:
        """The output access: `probs`, `top5:2`, `top1`, `label`, `weights`."""
        shown = self.access.label if self.top is None else f"top{self.top}"
        return shown if self.digits is None else f"{shown}:{self.digits}"

    def served(self, serving: str) -> ThreatModel:
        """The same threat model at another output access; UsageError for what is none."""
        return self.model_copy(update=_serving(serving))

    @classmethod
    def parse(cls, text: str | ThreatModel) -> ThreatModel:
        """Read a threat model's name (`paper`, `api`, `data-free`) or its written form; UsageError for anything else."""
        if isinstance(text, ThreatModel):
            return text
        if text in NAMED:
            return NAMED[text]
        parts = text.split("/")
        held = re.fullmatch(r"(\w+)(?:\(([0-9.e-]+)\))?", parts[1]) if len(parts) in (4, 5) else None
        if held is None:
            raise UsageError(
                f"threat model {text!r} is neither one of {', '.join(NAMED)} nor of the form "
                "ACCESS/DATA(SHARE)/POOL/START[/QUERIES[+IMAGES]] such as logits/labelled(1.0)/trained/random"
            )
        queries, plus, more = parts[4].partition("+") if len(parts) == 5 else (None, "", "")
        try:
            return cls.model_validate(
                {
                    **_serving(parts[0]),
                    "data": {"labeled": "labelled", "unlabeled": "unlabelled"}.get(held[1], held[1]),
                    "share": held[2] or 1.0,
                    "pool": parts[2],
                    "start": parts[3],
                    "questions": queries,
                    "unqueried": more if plus else 0,
                }
            )
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"threat model {text!r}: {_first_problem(error)}") from None


def _serving(text: str) -> dict[str, Any]:
    """`access`, `top` and `digits` of `probs`, `probs:2`, `top5`, `top5:2`, `top1`, `label` (or `labels`), `logits`, `weights`."""
    found = re.fullmatch(r"top(\d{1,6})(?::(\d))?|(\w+)(?::(\d))?", text)
    if found is None or found[1] == "0":
        raise UsageError(
            f"{text!r} is no output access; write probs, probs:2, top5, top5:2, top1, label, logits or weights"
        )
    if found[1]:
        return {"access": Access.TOPK, "top": int(found[1]), "digits": int(found[2]) if found[2] else None}
    access = Access.LABEL if found[3] == "labels" else Access.parse(found[3])
    if found[4] and access not in (Access.TOPK, Access.PROBS):
        raise UsageError(f"probabilities alone are rounded to digits, not {access.label}")
    return {"access": access, "top": None, "digits": int(found[4]) if found[4] else None}


def _first_problem(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    problems = error.errors()
    where = ".".join(str(part) for part in problems[0]["loc"])
    message = problems[0]["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


NAMED = {
    "paper": ThreatModel(),
    "api": ThreatModel(access=Access.PROBS, data="unlabelled", pool="fresh", questions=50),
    "data-free": ThreatModel(access=Access.WEIGHTS, data="none", pool="none"),
}
