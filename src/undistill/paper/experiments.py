"""The paper's experiments as data: which teachers, students and settings, and what is claimed of them. Never imports torch.

Networks are named by the role that the paper gives them (`ResNet18`); a scale says what plays it (`scales.py`). A new row of a
table or value of a sweep edits this file alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from undistill.paper.published import ITSELF, SELF

Arm = Literal["none", "normal", "nasty"]
Figure = Literal["logit-response", "embedding", "inversion"]
Select = dict[str, Any]
"""Values of a point's fields: `{"arm": "nasty"}`."""


@dataclass(frozen=True, eq=False)
class Direction:
    """A claim with a sign, judged by the one-sided 95 % bound of a paired quantity that it says is above 0.

    `difference`: `first − second`, one value a seed. `slope`: of accuracy over x > `beyond` (its logarithm where `log`), times
    `sign`, one a seed. `numbers`: Σ weight · number of a figure. Judged apart for each value of the fields `each`; the claim is
    seen only where all of them are.
    """

    text: str
    kind: Literal["difference", "slope", "numbers"]
    first: Select = field(default_factory=dict)
    second: Select = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    sign: int = 1
    log: bool = False
    beyond: float = -math.inf
    each: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Experiment:
    """One table or figure. `vary` is what x stands for; `students` are columns, the teacher's own role left to SELF."""

    name: str
    title: str
    about: str
    data: str
    kind: Literal["table", "sweep", "figure"]
    teachers: tuple[str, ...] = ("ResNet18",)
    students: tuple[str, ...] = ()
    arms: tuple[Arm, ...] = ("none", "normal", "nasty")
    vary: Literal["", "omega", "temperature", "alpha", "fraction", "adversary"] = ""
    values: tuple[float | str, ...] = ()
    attack: Literal["kd", "dafl", "deep-inversion"] = "kd"
    figure: Figure | None = None
    directions: tuple[Direction, ...] = ()
    group: str = ""

    @property
    def log(self) -> bool:
        """Whether x is drawn on a logarithmic axis."""
        return self.vary == "temperature"


_WORSE = Direction(
    "A student of the nasty teacher ends below the same student of the normal one.",
    "difference",
    first={"arm": "normal"},
    second={"arm": "nasty"},
    each=("teacher", "column"),
)
_HARMS = Direction(
    "A student of the nasty teacher ends below the same student trained without a teacher.",
    "difference",
    first={"arm": "none", "teacher": ""},
    second={"arm": "nasty"},
    each=("teacher", "column"),
)
_HELPS = Direction(
    "A student of the normal teacher ends above the same student trained without a teacher.",
    "difference",
    first={"arm": "normal"},
    second={"arm": "none", "teacher": ""},
    each=("teacher", "column"),
)
_FOUR = ("CNN", "ResNetC-20", "ResNetC-32", SELF)
_WIDE = ("ShuffleNetV2", "MobileNetV2", "ResNet18", SELF)
_LARGE = ("ResNet18", "ResNet50", "ResNeXt29")


def _table(name: str, data: str, title: str, teachers: tuple[str, ...], students: tuple[str, ...]) -> Experiment:
    about = "Accuracy of teachers and of the students that distil them, against students trained without a teacher."
    return Experiment(name, title, about, data, "table", teachers, students, directions=(_WORSE, _HELPS, _HARMS))


def _data_free(
    name: str, data: str, title: str, attack: Literal["dafl", "deep-inversion"], figure: Figure | None = None
) -> Experiment:
    return Experiment(
        name,
        title,
        "A student that is given the teacher's weights and no image.",
        data,
        "table",
        ("ResNet34",),
        ("ResNet18",),
        arms=("normal", "nasty"),
        attack=attack,
        figure=figure,
        directions=(_WORSE,),
        group="dafl" if attack == "dafl" else "",
    )


_ALL = (
    _table("table1", "cifar10", "Table 1: CIFAR-10", ("ResNet18",), _FOUR),
    _table("table2", "cifar100", "Table 2: CIFAR-100", _LARGE, _WIDE),
    _table("table3", "tiny-imagenet", "Table 3: Tiny-ImageNet", _LARGE, _WIDE),
    Experiment(
        "logits",
        "Figure: logit response",
        "softmax(logits / τ) of a normal and a nasty teacher for the same test images: one peak against several.",
        "cifar10",
        "figure",
        arms=("normal", "nasty"),
        figure="logit-response",
    ),
    Experiment(
        "embedding",
        "Figure: t-SNE of features and logits",
        "What both teachers compute from the same test images, before the classifier and behind it, coloured by class. The "
        "numbers are taken in the full space, not in the drawing.",
        "cifar10",
        "figure",
        arms=("normal", "nasty"),
        figure="embedding",
        directions=(
            Direction(
                "Logits lose more of their class structure (silhouette) than features do.",
                "numbers",
                weights={
                    "normal logits silhouette": 1,
                    "nasty logits silhouette": -1,
                    "normal features silhouette": -1,
                    "nasty features silhouette": 1,
                },
            ),
            Direction(
                "The nasty teacher's logits have a lower silhouette than the normal one's.",
                "numbers",
                weights={"normal logits silhouette": 1, "nasty logits silhouette": -1},
            ),
        ),
    ),
    Experiment(
        "adversary",
        "Ablation: the adversary's network",
        "Nasty teachers pushed away from adversaries of several networks.",
        "cifar10",
        "sweep",
        students=_FOUR,
        arms=("nasty",),
        vary="adversary",
        values=("ResNet18", "CNN", "ResNetC-20", "ResNeXt29"),
        directions=(
            Direction(
                "A weak adversary (CNN) costs the teacher accuracy, against one of its own network.",
                "difference",
                first={"x": "ResNet18", "column": ITSELF},
                second={"x": "CNN", "column": ITSELF},
            ),
        ),
    ),
    Experiment(
        "omega",
        "Ablation: ω",
        "Accuracy of the nasty teacher and of its students; at ω = 0 stands the normal teacher.",
        "cifar10",
        "sweep",
        students=_FOUR,
        arms=("none", "nasty"),
        vary="omega",
        values=(0.0, 0.004, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
        directions=(
            Direction(
                "The larger ω, the worse the nasty teacher's student (slope over ω > 0).",
                "slope",
                {"arm": "nasty"},
                sign=-1,
                beyond=0,
                each=("column",),
            ),
        ),
    ),
    Experiment(
        "temperature",
        "Ablation: the student's temperature τ_S",
        "The nasty teacher was trained at its own temperature throughout.",
        "cifar10",
        "sweep",
        students=_FOUR,
        vary="temperature",
        values=(1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 20.0),
        directions=(
            Direction(
                "The larger τ_S, the worse the nasty teacher's student (slope over log τ_S).",
                "slope",
                {"arm": "nasty"},
                sign=-1,
                log=True,
                each=("column",),
            ),
        ),
    ),
    Experiment(
        "alpha",
        "Ablation: the weight α of the teacher",
        "α = 1 uses no labels at all.",
        "cifar10",
        "sweep",
        students=_FOUR,
        vary="alpha",
        values=tuple(round(0.1 * k, 1) for k in range(1, 11)),
        directions=(
            Direction(
                "The smaller α, the better the nasty teacher's student.",
                "slope",
                {"arm": "nasty"},
                sign=-1,
                each=("column",),
            ),
        ),
    ),
    Experiment(
        "fraction",
        "Ablation: the share of the training images that the attacker holds",
        "Teachers were trained on all of them.",
        "cifar10",
        "sweep",
        students=_FOUR,
        vary="fraction",
        values=(0.1, 0.25, 0.5, 0.75, 1.0),
        directions=(
            Direction(
                "The fewer images, the worse the nasty teacher's student.", "slope", {"arm": "nasty"}, each=("column",)
            ),
            Direction(
                "The nasty teacher's student ends below the normal one's at every share.",
                "difference",
                first={"arm": "normal"},
                second={"arm": "nasty"},
                each=("column", "x"),
            ),
        ),
    ),
    _data_free("dafl", "cifar10", "Data-free: DAFL on CIFAR-10", "dafl"),
    _data_free("dafl-cifar100", "cifar100", "Data-free: DAFL on CIFAR-100", "dafl"),
    _data_free("deep-inversion", "cifar10", "Data-free: DeepInversion", "deep-inversion", "inversion"),
)
EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _ALL}
NAMES = tuple(dict.fromkeys(experiment.group or experiment.name for experiment in _ALL))
"""What `reproduce` takes, besides `all`."""


def named(name: str) -> tuple[Experiment, ...]:
    """The experiments of a name."""
    return tuple(e for e in _ALL if name in ("all", e.name, e.group))
