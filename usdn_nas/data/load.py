"""Loads the data set described by a study's ``[data]`` table, as splits that yield batches."""

from __future__ import annotations

from usdn_nas._util.trust import check_data
from usdn_nas.config import DataConfig
from usdn_nas.data.arrays import split_arrays
from usdn_nas.data.places import check_name
from usdn_nas.data.splits import DataSplits

__all__ = ["load_data"]


def load_data(
    config: DataConfig, *, seed: int, input_shape: tuple[int, int, int] | None = None, trust_code: bool = False
) -> DataSplits:
    """Reads, checks and splits a data set.

    Args:
        config: Name and place of the data set, and how it is split.
        seed: The study's seed. Together with ``config`` it determines which image is in which split.
        input_shape: Input shape (C, H, W) of the network. Images in memory must have this shape; image files are
            resized and cropped to it. None: the shape of the images in memory, or 3x224x224 for image files.
        trust_code: Allow to run the function that ``config.name`` names, if it names one. Consent is needed because the
            settings may come from somebody else's run folder.

    Raises:
        UserError: The data is missing, damaged, of another shape, or too small for the requested splits; or it comes
            from a function and ``trust_code`` is False.
    """
    check_name(config.name)
    check_data(config.name, where="data.name", trust_code=trust_code)
    if config.name in ("imagenet", "imagefolder"):
        from usdn_nas.data.folders import load_folders

        return load_folders(config, seed, input_shape)
    from usdn_nas.data.readers import read_arrays

    return split_arrays(read_arrays(config, seed), config, seed, input_shape)
