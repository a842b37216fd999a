"""A scale that takes seconds: the paper's roles played by the narrowest networks, on a few digits."""

from __future__ import annotations

from undistill.paper.scales import SMOKE, Scale, Stage

RECIPE = {
    "data": {"name": "digits", "limit": 700, "test": 497, "pool": 0, "val": 0},
    "training": {"epochs": 1, "batch": 100, "optimizer": {"name": "sgd", "lr": 0.1}},
    "defense": {"name": "nasty", "omega": 0.04, "temperature": 4},
}
CNN = {"name": "cnn", "width": 0.0625}
ROLES = SMOKE.stages["cifar10"].networks
STAGE = Stage(RECIPE, dict.fromkeys(ROLES, CNN), students={"CNN": {"name": "cnn", "width": 0.125}})
TOY = Scale(
    "toy",
    dict.fromkeys(SMOKE.stages, STAGE),
    notes=("Nothing can be learnt from it.",),
    attacks={
        "dafl": {"latent": 4, "batch": 8, "steps": 2, "width": 0.0625},
        "deep-inversion": {"iterations": 2, "batch": 20, "images": 40},
    },
    points=60,
    pictures=2,
)
