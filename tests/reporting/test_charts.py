"""Charts hold the numbers of their cells, all of them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reporting.synthetic import attacker, figure, grid
from undistill.errors import RunError
from undistill.reporting import charts
from undistill.reporting.response import picture, response, softened
from undistill.reporting.summary import summarize


def _values(spec: dict[str, Any]) -> list[list[dict[str, Any]]]:
    return [layer.get("data", spec.get("data"))["values"] for layer in spec.get("layer", [spec])]


def test_every_seed_is_a_point_and_every_group_a_tick() -> None:
    summary = summarize(grid())
    section = summary.sections[0]
    _, _, points, means = _values(charts.dots(section, summary.names))
    assert sorted(point["accuracy"] for point in points) == sorted(cell.accuracy or 0 for cell in section.cells)
    assert len(means) == len(section.groups)
    assert {mean["accuracy"] for mean in means if mean["victim"] == "baseline"} == {97.2}


def test_points_of_one_group_share_a_lane_that_no_other_group_has() -> None:
    summary = summarize(grid())
    _, _, points, _ = _values(charts.dots(summary.sections[0], summary.names))
    assert len({point["y"] for point in points}) == len({(point["arm"], point["victim"]) for point in points})


def test_lost_cells_are_not_drawn_at_zero() -> None:
    summary = summarize([attacker(0), attacker(1, None, status="diverged")])
    _, _, points = _values(charts.dots(summary.sections[0], summary.names))
    assert [point["accuracy"] for point in points] == [90.0]


def test_the_same_cells_give_the_same_specification() -> None:
    summary = summarize(grid())
    assert charts.dots(summary.sections[0], summary.names) == charts.dots(summary.sections[0], summary.names)


def test_a_victim_has_one_colour_and_shape_in_every_chart() -> None:
    names = summarize(grid()).names
    both = summarize(grid()).sections[0]
    only = summarize([attacker(0)]).sections[0]
    encodings = [charts.dots(section, names)["layer"][2]["encoding"] for section in (both, only)]
    for channel in ("color", "shape"):
        looks = [dict(zip(e[channel]["scale"]["domain"], e[channel]["scale"]["range"], strict=True)) for e in encodings]
        assert looks[0]["nasty"] == looks[1]["nasty"]


def test_mean_curve_by_hand() -> None:
    short = attacker(1, curve=[{"epoch": 1, "loss": 4.0}])
    long = attacker(0, curve=[{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "accuracy_val": 50.0}])
    assert charts.mean_curve([long, short], "loss") == [(1, 3.0), (2, 1.0)]
    assert charts.mean_curve([long, short], "accuracy_val") == [(2, 50.0)]


def test_long_curves_are_thinned_but_keep_their_end() -> None:
    cell = attacker(0, curve=[{"epoch": e, "loss": float(e)} for e in range(1, 1001)])
    spec = charts.curves({"nasty": [cell]}, ["nasty"], "loss", "x")
    [values] = _values(spec)
    assert len(values) <= charts.THIN_TO + 1
    assert values[-1]["epoch"] == 1000


def test_softened_answers_by_hand() -> None:
    logits_NC = np.array([[np.log(1.0), np.log(3.0)], [0.0, -np.inf]], dtype=np.float32)
    assert softened(logits_NC, 1.0) == pytest.approx(np.array([[0.25, 0.75], [1.0, 0.0]]))
    assert softened(logits_NC[:1], 0.5) == pytest.approx(np.array([[0.1, 0.9]]))


def test_extreme_answers_stay_finite() -> None:
    assert np.isfinite(softened(np.array([[3e38, -3e38]], dtype=np.float32), 1.0)).all()


def test_bars_hold_both_teachers_at_each_temperature() -> None:
    cell, arrays = figure()
    drawn = response(cell, arrays, "nasty", ["normal", "nasty"])
    assert [title for title, _ in drawn.images[0].charts] == ["τ = 1", "τ = 4"]
    spec = drawn.images[0].charts[1][1]
    [values] = _values(spec)
    assert len(values) == 6
    for who, key in (("normal", "normal"), ("nasty", "hardened")):
        found = [value["percent"] for value in values if value["victim"] == who]
        assert found == pytest.approx(100 * softened(arrays[key][:1], 4.0)[0], abs=1e-3)


def test_many_classes_show_the_largest_answers() -> None:
    cell, arrays = figure(tuple(f"class {c}" for c in range(100)))
    shown = response(cell, arrays, "nasty", ["normal", "nasty"]).images[0]
    assert (len(shown.rows), shown.hidden) == (12, 88)
    assert f"class {int(arrays['normal'][0].argmax())}" in {row[0] for row in shown.rows}


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_is_the_image(channels: int) -> None:
    image_CHW = np.random.default_rng(0).integers(0, 256, (channels, 8, 8), dtype=np.uint8)
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture(image_CHW).partition(",")[2]))))
    assert (np.atleast_3d(read) == np.moveaxis(image_CHW, 0, -1)).all()


@pytest.mark.parametrize(
    "damage",
    [
        {"normal": np.zeros((2, 2), dtype=np.float32)},
        {"hardened": np.full((2, 3), np.nan, dtype=np.float32)},
        {"labels": np.array([0, 7])},
        {"images": np.zeros((2, 1, 8, 8), dtype=np.float32)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(damage: dict[str, Any]) -> None:
    cell, arrays = figure()
    with pytest.raises(RunError, match="damaged"):
        response(cell, arrays | damage, "nasty", ["normal", "nasty"])


def test_missing_arrays_are_named() -> None:
    cell, arrays = figure()
    del arrays["hardened"]
    with pytest.raises(RunError, match="lack hardened"):
        response(cell, arrays, "nasty", ["normal", "nasty"])
