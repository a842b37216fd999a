"""Image sets out of torch-like data sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from data.made import picture
from undistill.data import ImageSet, image_set, split
from undistill.errors import UsageError


class Photos(Dataset[Any]):
    classes = ("cat", "dog")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return picture(number), number % 2


def array(seed: int, mode: str = "RGB") -> Any:
    return np.asarray(picture(seed, mode=mode))


EXPECTED = torch.stack([torch.from_numpy(array(k).transpose(2, 0, 1).copy()) for k in range(4)])
KINDS = {
    "array": [(array(k), k % 2) for k in range(4)],
    "uint8 tensor": [(EXPECTED[k], k % 2) for k in range(4)],
    "float tensor": [(EXPECTED[k].float() / 255, k % 2) for k in range(4)],
    "double and NumPy label": [[EXPECTED[k].double() / 255, np.int64(k % 2)] for k in range(4)],
    "tensor label": [(EXPECTED[k], torch.tensor(k % 2)) for k in range(4)],
    "tensor data set": TensorDataset(EXPECTED, torch.arange(4) % 2),
    "Pillow": Photos(),
}


@pytest.mark.parametrize("items", KINDS.values(), ids=KINDS)
def test_every_kind_of_item_is_the_same_image(items: Any) -> None:
    images = ImageSet.from_torch(items, class_names=("cat", "dog"))
    assert torch.equal(images.images_NCHW[:], EXPECTED)
    assert images.labels_N.tolist() == [0, 1, 0, 1]
    assert images.class_names == ("cat", "dog")


def test_names_are_the_sets_own_or_numbers() -> None:
    assert ImageSet.from_torch(Photos()).class_names == ("cat", "dog")
    assert ImageSet.from_torch(KINDS["array"]).class_names == ("0", "1")


def test_mixed_sizes_and_modes_become_alike() -> None:
    items = [(picture(0, (9, 12)), 0), (picture(1, (20, 16), "L"), 1), (torch.zeros(1, 10, 10), 1)]
    images = ImageSet.from_torch(items)
    assert (images.channels, images.image_size) == (3, 10)
    assert ImageSet.from_torch(items, size=5, channels=1).images_NCHW.shape == (3, 1, 5, 5)


def test_grey_items_have_one_channel() -> None:
    items = [(array(0, "L"), 0), (torch.from_numpy(array(1, "L").copy()), 1), (array(2, "L")[:, :, None], 0)]
    assert ImageSet.from_torch(items).channels == 1


def test_image_sets_are_split_like_any_other() -> None:
    items = [(picture(k), k % 2) for k in range(20)]
    splits = split("mine", ImageSet.from_torch(items), test_size=0.2, val=0.1)
    assert [len(part) for part in (splits.train, splits.val or (), splits.test)] == [14, 2, 4]


class Restless(Photos):
    calls = 0

    def __getitem__(self, number: int) -> tuple[Any, int]:
        self.calls += 1
        return picture(number), self.calls % 3


GOOD = (array(0), 0)
WRONG: dict[str, tuple[Any, str]] = {
    "floats": ([(EXPECTED[0].float() / 100 - 1, 0)], "item 0 holds floats from .* leave normalisation out"),
    "not a number": ([(torch.full((3, 8, 8), float("nan")), 0)], "item 0 holds floats from nan"),
    "no pair": ([GOOD, array(0)], "item 1 is no pair of an image and a class number, but ndarray"),
    "label": ([GOOD, (array(1), "dog")], "item 1 has the label 'dog', which is no class number"),
    "negative label": ([(array(1), -1)], "label -1"),
    "float label": ([(array(1), 0.5)], r"label 0\.5"),
    "many labels": ([(array(1), torch.tensor([0, 1]))], "which is no class number"),
    "channels": ([(array(1)[:, :, :2], 0)], "not H × W × C with 1 or 3"),
    "tensor channels": ([(torch.zeros(8, 8, 3), 0)], "not C × H × W with 1 or 3"),
    "dimensions": ([(torch.zeros(1, 3, 8, 8), 0)], "not C × H × W with 1 or 3"),
    "array of floats": ([(array(1) / 255, 0)], "item 0 holds float64; an image is"),
    "int tensor": ([(torch.zeros(3, 8, 8, dtype=torch.int64), 0)], "item 0 holds int64; an image is"),
    "text": ([("cat.png", 0)], "item 0 holds str; an image is"),
    "no pixels": ([(torch.zeros(3, 0, 8), 0)], "is of the shape"),
    "empty": ([], "there are no images"),
    "stream": (iter([GOOD]), "has no length"),
    "one class": ([GOOD, GOOD], "all 2 images are of one class"),
    "restless": (Restless(), "data must not change"),
}


@pytest.mark.parametrize(("items", "sentence"), WRONG.values(), ids=WRONG)
def test_what_is_no_image_is_refused_by_number(items: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=rf"^[^\n]*{sentence}[^\n]*$"):
        ImageSet.from_torch(items)


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": 10**6}, {"channels": 2}])
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"size is a side|channels is 1, 3 or None"):
        ImageSet.from_torch(Photos(), **settings)


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_set, "LARGEST", 100)
    with pytest.raises(UsageError, match="these 4 images would take"):
        ImageSet.from_torch(Photos())
