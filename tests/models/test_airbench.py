"""The fast network: its size, its fixed whitening, and that nothing trains that."""

from __future__ import annotations

import pytest
import torch

from undistill.data import ImageBatches, ImageSet
from undistill.models import build
from undistill.models import model_folder as models
from undistill.models.airbench import Whitening
from undistill.training.loop import fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Training


def smooth(count: int, size: int = 16) -> torch.Tensor:
    """Images whose neighboring pixels resemble each other."""
    rough = torch.rand(count, 3, size + 2, size + 2, generator=torch.Generator().manual_seed(5))
    return torch.nn.functional.avg_pool2d(rough, 3, 1)


def test_it_has_the_weights_that_its_source_counts() -> None:
    made = build("airbench")
    assert sum(p.numel() for p in made.parameters()) == 1_972_480
    assert made(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 2), (3, 32), (3, 64), (1, 28)])
def test_it_takes_images_of_any_size(channels: int, size: int) -> None:
    assert build("airbench", 4, channels, size, 0.125)(torch.rand(2, channels, size, size)).shape == (2, 4)


def test_whitened_patches_are_uncorrelated_and_of_unit_size() -> None:
    layer, images_BCHW = Whitening(3).double(), smooth(200).double() - 0.5
    layer.fit(images_BCHW)
    outputs_MK = layer(images_BCHW).movedim(1, 3).flatten(0, 2)
    moments_KK = (outputs_MK.T @ outputs_MK / len(outputs_MK))[:12, :12]
    values_K = moments_KK.diagonal()
    torch.testing.assert_close(moments_KK, values_K.diag(), atol=1e-9, rtol=0)
    assert ((values_K > 0.5) & (values_K < 1)).all()  # 1 but for the ridge
    torch.testing.assert_close(outputs_MK[:, 12:], -outputs_MK[:, :12])


def test_training_never_moves_the_whitening_and_files_keep_it() -> None:
    pixels = (smooth(32) * 255).to(torch.uint8)
    images = ImageSet.of(pixels, torch.arange(32) % 2, ("a", "b"))
    made = build("airbench", 2, 3, 16, 0.125, seed=0)
    made.initialize(lambda count: images.seen(slice(count)))
    before = made.state_dict()["body.0.0.weight"].clone()
    assert not torch.equal(before[:12].flatten(1), torch.eye(12))
    made.requires_grad_(True)
    training = Training.model_validate(
        {"epochs": 2, "batch": 8, "average": {}, "optimizer": {"name": "decoupled-sgd", "lr": 1.0}}
    )
    list(fit(made, ImageBatches(images, 8, seed=0, role="teacher"), CrossEntropy(), training, seed=0))
    assert torch.equal(made.state_dict()["body.0.0.weight"], before)
    assert "body.0.0.weight" in models.tensors_to_bytes(made.state_dict()).decode("latin1")
