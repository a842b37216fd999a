"""What plays each part of the paper at each scale, as data: networks, recipes, threat models, budgets. Never imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from undistill.errors import UsageError

Settings = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One data set at one scale.

    `recipe` trains teachers (`changes` on top); `networks` says what plays each role; `students` what plays a role as a student
    where that differs (its own width, its own recipe); `attacker` are settings of the students' training on top of theirs.
    """

    recipe: str | Settings
    networks: dict[str, Settings]
    changes: tuple[str, ...] = ()
    students: dict[str, Settings] = field(default_factory=dict)
    attacker: tuple[str, ...] = ()
    adversaries: dict[str, str] = field(default_factory=dict)
    """Recipes of adversaries that are not trained as the teacher is, by role. A role that `networks` lacks is no adversary."""


@dataclass(frozen=True)
class Attacker:
    """An attacker with `questions` fresh labelled images who asks once about each and trains on about `views` altered copies."""

    questions: int
    views: int
    epochs: int
    batch: int

    def changes(self, share: float) -> tuple[str, ...]:
        """Its training at a share of the images, with as many views as at all of them."""
        passes = max(1, round(self.views / (self.count(share) * self.epochs)))
        return (f"training.epochs={self.epochs}", f"training.passes={passes}", f"training.batch={self.batch}")

    def count(self, share: float) -> int:
        """Its images."""
        return max(2, round(share * self.questions))


@dataclass(frozen=True)
class Scale:
    """A whole reproduction at one size. `notes` say what was reduced, in sentences for the page."""

    name: str
    stages: dict[str, Stage]
    notes: tuple[str, ...] = ()
    sweep_students: tuple[str, ...] = ()
    """Columns of ablations; empty for all."""
    attacks: dict[str, Settings] = field(default_factory=dict)
    """Settings of data-free attacks, by attack or by experiment."""
    data_free: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Settings of the students' training in data-free attacks, by attack or by experiment."""
    attacker: Attacker | None = None
    """Few fresh images, each asked about once; None for the paper's attack, who holds the victim's training images."""
    points: int = 2000
    """Test images in an embedding."""
    pictures: int = 8
    """Inverted images of each class in a figure, at most."""

    def card(self, share: float = 1.0) -> str:
        """The card of a student that distils, at a share of the images that it holds."""
        if self.attacker is None:
            return f"logits/labelled({share:g})/trained/random"
        return f"logits/labelled/fresh/random/{self.attacker.count(share)}"


_SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5.0e-4, "nesterov": True}
_ROLES = {
    "CNN": "cnn",
    "ResNetC-20": "resnetc20",
    "ResNetC-32": "resnetc32",
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "ResNeXt29": "resnext29",
    "ShuffleNetV2": "shufflenetv2",
    "MobileNetV2": "mobilenetv2",
}


def _networks(**widths: float) -> dict[str, Settings]:
    """The paper's own networks, some of them narrower; `widths` by our names."""
    return {role: {"name": name, "width": widths.get(name, 1.0)} for role, name in _ROLES.items()}


_CNN = {"CNN": {"name": "cnn", "width": 1.0, "recipe": "paper-cifar10-cnn"}}
PAPER = Scale(
    "paper",
    {
        "cifar10": Stage("paper-cifar10", _networks(), students=_CNN, adversaries={"CNN": "paper-cifar10-cnn"}),
        "cifar100": Stage("paper-cifar100", _networks()),
        "tiny-imagenet": Stage("paper-tiny-imagenet", _networks()),
    },
    attacks={
        "dafl": {"one_hot": 0.05, "activation": 0.01, "entropy": 5.0},
        "dafl-cifar100": {"one_hot": 0.5, "activation": 0.1, "entropy": 20.0},
    },
    data_free={
        "dafl": ("training.epochs=2000", "training.clip=null", 'training.schedule={"name":"step","at":[800,1600]}'),
        "deep-inversion": ("training.epochs=200", 'training.schedule={"name":"one-cycle"}'),
    },
    points=5000,
)

FAST = replace(
    PAPER,
    stages={
        "cifar10": Stage("fast-cifar10", _networks()),
        "cifar100": Stage("fast-cifar100", _networks()),
        "tiny-imagenet": Stage(
            "fast-cifar100",
            _networks(),
            ("data.name=tiny-imagenet", 'data.views=["rotation","flip"]', "defense.omega=0.01"),
        ),
    },
    data_free={
        "dafl": ("training.epochs=100", "training.clip=null", 'training.schedule={"name":"step","at":[40,80]}'),
        "deep-inversion": ("training.epochs=30", 'training.schedule={"name":"one-cycle"}'),
    },
    notes=(
        "The recipes `fast-…` were used: about a fifth of the paper's epochs, a tenth of the training images held out.",
        "DAFL ran for a twentieth of its epochs, 100 of 2,000.",
    ),
)

_PILOT: Settings = {
    "data": {"name": "cifar10", "limit": 6_000, "pool": 2_000, "val": 0, "views": ["flip"]},
    "model": {"name": "cnn", "width": 1.0},
    "training": {"epochs": 20, "batch": 128, "clip": 5.0, "optimizer": _SGD, "schedule": {"name": "one-cycle"}},
    "defense": {"name": "nasty", "omega": 0.04, "temperature": 4},
    "attack": {"name": "kd", "temperature": 4, "alpha": 0.9},
}
_PILOT_100: Settings = {
    **_PILOT,
    "data": {"name": "cifar100", "limit": 7_000, "pool": 2_000, "val": 0, "views": ["crop", "flip"]},
    "defense": {"name": "nasty", "omega": 0.005, "temperature": 20},
    "attack": {"name": "kd", "temperature": 20, "alpha": 0.9},
}
_PILOT_TINY: Settings = {
    **_PILOT_100,
    "data": {"name": "tiny-imagenet", "size": 32, "limit": 12_000, "pool": 2_000, "val": 0, "views": ["crop", "flip"]},
    "training": {**_PILOT["training"], "epochs": 12},
    "defense": {"name": "nasty", "omega": 0.01, "temperature": 20},
}
_CNNS: dict[str, Settings] = {
    "CNN": {"name": "cnn", "width": 0.25},
    "ResNetC-20": {"name": "resnetc20", "width": 0.5},
    "ResNet18": {"name": "cnn", "width": 1.0},
    "ResNet34": {"name": "cnn", "width": 0.5},
    "ResNet50": {"name": "cnn", "width": 1.25},
    "ResNeXt29": {"name": "cnn", "width": 1.5},
}
_THIN: dict[str, Settings] = {
    "CNN": {"name": "cnn", "width": 0.5},
    "ResNetC-20": {"name": "resnetc20", "width": 0.25},
    "ResNetC-32": {"name": "resnetc32", "width": 0.25},
    "ResNet18": {"name": "cnn", "width": 0.5},
    "ShuffleNetV2": {"name": "shufflenetv2", "width": 0.25},
    "MobileNetV2": {"name": "mobilenetv2", "width": 0.125},
}
_TOLD_SMALL = (
    "`cnn` of several widths stands in for the large networks, thin networks for the students.",
    "Victims are trained on 4,000 images (CIFAR-10), 5,000 (CIFAR-100) or 10,000 of 32 pixels (Tiny-ImageNet), for 20 epochs "
    "or 12, with one cycle of the rate.",
)
_CROP = ('data.views=["crop","flip"]',)
SMALL = Scale(
    "small",
    {
        "cifar10": Stage(_PILOT, _CNNS, students=_THIN, attacker=_CROP),
        "cifar100": Stage(_PILOT_100, _CNNS, students=_THIN),
        "tiny-imagenet": Stage(_PILOT_TINY, _CNNS, students=_THIN),
    },
    notes=(
        *_TOLD_SMALL,
        "The attacker holds 500 fresh labelled images, asks once about each and trains on 25,000 altered copies; where it holds a "
        "share of them, on 22,500 to 25,000 copies of fewer. On the victim's own training images a student "
        "without any teacher is as good as the victim (small-paper-card), which leaves nothing to see.",
        "Ablations have one student, the CNN.",
        "Data-free attacks are cut short: DAFL sees 82,000 generated images, not 246 million; DeepInversion takes 100 steps for "
        "its 2,560 images, not 2,000.",
    ),
    sweep_students=("CNN",),
    attacks={
        "dafl": {"latent": 256, "batch": 128, "steps": 64, "width": 0.25},
        "dafl-cifar100": {
            "latent": 256,
            "batch": 128,
            "steps": 64,
            "width": 0.25,
            "one_hot": 0.5,
            "activation": 0.1,
            "entropy": 20.0,
        },
        "deep-inversion": {"iterations": 100},
    },
    data_free={"dafl": ("training.epochs=10",), "deep-inversion": ("training.epochs=10", "training.batch=64")},
    attacker=Attacker(questions=500, views=24_000, epochs=10, batch=64),
    points=1_000,
)
SMALL_PAPER_CARD = Scale(
    "small-paper-card",
    SMALL.stages,
    notes=(*_TOLD_SMALL, "The attacker holds the victim's training images, as in the paper.", *SMALL.notes[-2:]),
    sweep_students=("CNN",),
    attacks=SMALL.attacks,
    data_free=SMALL.data_free,
)

_SPEED = {
    "CNN": {"name": "cnn", "recipe": "speed-cifar10-cnn"},
    "ResNetC-20": {"name": "resnetc20", "recipe": "speed-cifar10-resnetc"},
    "ResNetC-32": {"name": "resnetc32", "recipe": "speed-cifar10-resnetc"},
}
_PLAIN_STUDENT = (
    'training.optimizer={"name":"sgd","lr":0.1,"momentum":0.9,"weight_decay":5.0e-4,"nesterov":true}',
    "training.batch=256",
    "training.average=null",
    'training.schedule={"name":"one-cycle"}',
)
LAPTOP = Scale(
    "laptop",
    {
        "cifar10": Stage(
            "speed-cifar10",
            {
                **{role: {"name": name} for role, name in _ROLES.items() if role in _SPEED},
                **{role: {"name": "airbench"} for role in ("ResNet18", "ResNet34")},
            },
            students=_SPEED,
            adversaries={"CNN": "speed-cifar10-cnn", "ResNetC-20": "speed-cifar10-resnetc"},
        )
    },
    notes=(
        "`airbench`, a network of 2 million weights that converges within 24 passes over the images, plays ResNet18 and ResNet34; "
        "students are the paper's own networks (and `airbench` as the teacher's own), on all 50,000 images and labels as there, "
        "trained by shorter recipes: 20 passes in place of 100 for the CNN, 30 in place of 160 for ResNetC.",
        "As its own teacher's student `airbench` keeps its recipe, whose rates were made for cross-entropy: distilling at τ = 4, "
        "whose gradients are several times larger, ends far below training alone, so that column says nothing about the defense.",
        "Arithmetic is bf16 where the processor or GPU has it; each cell says which.",
        "Ablations have one student, the CNN; ResNeXt29 is left out as an adversary.",
        "Data-free attacks are cut short: DAFL sees 1.2 million generated images, not 246 million; DeepInversion takes 500 steps "
        "for its 2,560 images, not 2,000.",
        "CIFAR-100 and Tiny-ImageNet have no such recipe yet.",
    ),
    sweep_students=("CNN",),
    attacks={
        "dafl": {"latent": 256, "batch": 256, "steps": 120, "width": 0.5},
        "deep-inversion": {"iterations": 500},
    },
    data_free={
        "dafl": ("training.epochs=40", *_PLAIN_STUDENT),
        "deep-inversion": ("training.epochs=60", *_PLAIN_STUDENT),
    },
)
LAPTOP_RESNET18 = replace(
    LAPTOP,
    name="laptop-resnet18",
    stages={"cifar10": Stage("speed-cifar10-resnet18", _networks(), students=_SPEED)},
    notes=(
        "The paper's own networks at full width, on all 50,000 images and labels as there, trained by shorter recipes: 24 passes "
        "in place of 160 for ResNet18, 20 in place of 100 for the CNN, 30 in place of 160 for ResNetC.",
        *LAPTOP.notes[2:],
    ),
)

_DIGITS: Settings = {
    "data": {
        "name": "digits",
        "limit": 1_200,
        "test": 497,
        "pool": 0,
        "val": 0,
        "views": [{"name": "crop", "padding": 1}],
    },
    "training": {"epochs": 6, "batch": 64, "clip": 5.0, "optimizer": _SGD, "schedule": {"name": "one-cycle"}},
    "defense": {"name": "nasty", "omega": 0.04, "temperature": 4},
    "attack": {"name": "kd", "temperature": 4, "alpha": 0.9},
}
_TINY = {role: {"name": name, "width": 0.125} for role, name in _ROLES.items()}
_HOT = ("defense.omega=0.005", "defense.temperature=20", "attack.temperature=20")
SMOKE = Scale(
    "smoke",
    {
        "cifar10": Stage(_DIGITS, _TINY),
        "cifar100": Stage(_DIGITS, _TINY, (*_HOT, "data.split_seed=1")),
        "tiny-imagenet": Stage(_DIGITS, _TINY, (*_HOT, "data.split_seed=2", "defense.omega=0.01")),
    },
    notes=(
        "A check that everything runs, no more: three splits of scikit-learn's digits stand in for the three data sets, the "
        "paper's networks at an eighth of their width are trained for a few epochs.",
    ),
    attacks={
        "dafl": {"latent": 32, "batch": 64, "steps": 20, "width": 0.25},
        "deep-inversion": {"iterations": 30, "batch": 64, "images": 128, "bn": 1, "jitter": 0, "flip": False},
    },
    points=497,
    pictures=2,
)
SCALES: dict[str, Scale] = {
    scale.name: scale for scale in (SMOKE, SMALL, SMALL_PAPER_CARD, LAPTOP, LAPTOP_RESNET18, PAPER)
}


def chosen(name: str, recipe: str = "") -> Scale:
    """A scale, with `fast` recipes where asked; UsageError for one that there is not."""
    if name not in SCALES:
        raise UsageError(f"no scale called {name!r}; there are {', '.join(SCALES)}")
    if recipe not in ("", "paper", "fast"):
        raise UsageError(f"no recipe called {recipe!r} for a reproduction; there are paper and fast")
    if recipe == "fast":
        if name != "paper":
            raise UsageError(f"fast recipes belong to --scale paper, not {name}")
        return FAST
    return SCALES[name]
