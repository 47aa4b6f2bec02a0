import pytest

from spectralgpt.data.cubes import check_token_budget, draw_bands
from spectralgpt.errors import ConfigError
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.sensors import load_sensor

ENMAP = load_sensor("enmap-l2a").select()


def test_drawn_bands_are_whole_groups_of_the_spectrum_in_order() -> None:
    whole = {ENMAP[i : i + 3] for i in range(0, 224, 3)}
    for seed in range(20):
        drawn = draw_bands(ENMAP, 3, 12, seed)
        groups = {drawn[i : i + 3] for i in range(0, len(drawn), 3)}
        assert len(groups) == 12
        assert groups <= whole
        wavelengths = [band.wavelength_nm for band in drawn]
        assert wavelengths == sorted(wavelengths)


def test_draw_is_that_of_the_seed_and_reaches_every_group() -> None:
    assert draw_bands(ENMAP, 3, 12, 5) == draw_bands(ENMAP, 3, 12, 5)
    seen = {band for seed in range(60) for band in draw_bands(ENMAP, 3, 12, seed)}
    assert seen == set(ENMAP)


@pytest.mark.parametrize(
    ("budget", "groups"), [(None, None), (144, 1), (1727, 11), (10800, None)]
)
def test_budget_holds_whole_band_groups(budget: int | None, groups: int | None) -> None:
    contract = sensor_preprocessing("enmap-l2a", image_size=96)
    assert check_token_budget(budget, contract) == groups


def test_budget_below_one_band_group_is_refused() -> None:
    contract = sensor_preprocessing("enmap-l2a", image_size=96)
    with pytest.raises(
        ConfigError, match=r"token_budget is 143.* 96 px has 144 tokens"
    ):
        check_token_budget(143, contract)
