"""Views of images with any number of bands."""

import pytest
import torch
from torch import Tensor

from spectralgpt.errors import ShapeError
from spectralgpt.models.views import ViewConfig, make_views, view_noise_size

CONFIG = ViewConfig()
STILL = ViewConfig(
    min_scale=1.0, jitter_share=0.0, blur_share=(0.0, 0.0), noise_std=0.0
)
ANY_TURN = 4
"""Where the noise of the first view holds its turn."""


def draw(images: Tensor, config: ViewConfig) -> Tensor:
    return torch.rand(len(images), view_noise_size(images, config))


@pytest.mark.parametrize("bands", [1, 4, 224])
def test_views_of_any_bands_differ_and_keep_their_shape(bands: int) -> None:
    images = torch.rand(3, bands, 16, 16)
    first, second = make_views(images, draw(images, CONFIG), CONFIG)
    assert first.shape == second.shape == images.shape
    assert not torch.allclose(first, second)
    assert bool(first.isfinite().all())


def test_views_of_an_image_depend_on_nothing_but_its_own_noise() -> None:
    images = torch.rand(6, 5, 16, 16)
    noise = draw(images, CONFIG)
    together = make_views(images, noise, CONFIG)
    for n in range(6):
        alone = make_views(images[n : n + 1], noise[n : n + 1], CONFIG)
        for whole, own in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[n : n + 1], own, rtol=0, atol=1e-6)


def test_turns_are_the_eight_ways_a_square_can_lie() -> None:
    image = torch.rand(1, 3, 16, 16)
    noise = draw(image, STILL).expand(8, -1).clone()
    # Of a ratio of 1 the whole image is the crop.
    noise[:, 1] = 0.5
    noise[:, ANY_TURN] = (torch.arange(8) + 0.5) / 8
    found, _ = make_views(image.expand(8, -1, -1, -1), noise, STILL)
    ways = [image.rot90(k, (2, 3)) for k in range(4)]
    ways += [way.flip(3) for way in ways]
    for way in ways:
        same = [torch.allclose(view[None], way, atol=1e-5) for view in found]
        assert sum(same) == 1


def test_crops_are_parts_of_the_image() -> None:
    rows = torch.arange(32.0).view(1, 1, 32, 1).expand(200, 1, 32, 32)
    config = ViewConfig(
        min_scale=0.25, jitter_share=0.0, blur_share=(0.0, 0.0), noise_std=0.0
    )
    view, _ = make_views(rows, draw(rows, config), config)
    spans = view.amax(dim=(1, 2, 3)) - view.amin(dim=(1, 2, 3))
    assert float(view.min()) < 1
    assert float(view.max()) > 30
    # Sides are the root of the area, times that of the ratio, at most.
    assert float(spans.min()) > 31 * (0.25 * 3 / 4) ** 0.5 - 1
    assert float(spans.mean()) < 29


def test_bands_are_made_brighter_together_and_a_little_apart() -> None:
    images = torch.full((200, 4, 16, 16), 0.5)
    config = ViewConfig(noise_std=0.0, jitter_share=1.0, brightness=0.4)
    view, _ = make_views(images, draw(images, config), config)
    means = view.mean(dim=(2, 3)) / 0.5
    assert 0.6 * 0.9 <= float(means.min()) < 0.7
    assert 1.3 < float(means.max()) <= 1.4 * 1.1 + 1e-5
    apart = means.amax(1) / means.amin(1)
    assert 1.0 < float(apart.max()) <= 1.1 / 0.9 + 1e-5


def test_blur_takes_the_chosen_share_and_keeps_the_mean() -> None:
    images = torch.rand(64, 2, 32, 32)
    config = ViewConfig(
        min_scale=1.0, jitter_share=0.0, blur_share=(1.0, 0.0), noise_std=0.0
    )
    first, second = make_views(images, draw(images, config), config)
    assert float(first.std()) < 0.8 * float(second.std())
    assert float(first.mean()) == pytest.approx(float(images.mean()), abs=0.01)


def test_fill_values_are_never_seen() -> None:
    images = torch.rand(2, 3, 16, 16)
    valid = torch.ones_like(images, dtype=torch.bool)
    valid[0, 1, :9] = False
    noise = draw(images, CONFIG)
    spoilt = torch.where(valid, images, torch.tensor(-9999.0))
    found, wanted = (
        make_views(each, noise, CONFIG, valid) for each in (spoilt, images)
    )
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    assert float(found[0].min()) > -1


def test_other_shapes_are_refused() -> None:
    images = torch.rand(2, 3, 16, 16)
    with pytest.raises(ShapeError, match="noise has shape"):
        make_views(images, torch.rand(2, 5), CONFIG)
    with pytest.raises(ShapeError, match="views are made of"):
        make_views(images[None], torch.rand(2, 5), CONFIG)
