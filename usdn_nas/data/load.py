"""From the ``[data]`` table of a study to splits that yield batches."""

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
        config: Which data, where, and how it is split.
        seed: The study's seed; with ``config`` it determines who is in which split.
        input_shape: (C, H, W) that the network takes. Images in memory must have this shape, image files are brought
            to it. None: the images' own, for image files 3x224x224.
        trust_code: Run the function that ``config.name`` names, if it names one. The settings may come from a run
            folder of somebody else's.

    Raises:
        UserError: The data is not there, damaged, of another shape, or too small for the splits asked for; or it comes
            from a function that nobody consented to.
    """
    check_name(config.name)
    check_data(config.name, where="data.name", trust_code=trust_code)
    if config.name in ("imagenet", "imagefolder"):
        from usdn_nas.data.folders import load_folders

        return load_folders(config, seed, input_shape)
    from usdn_nas.data.readers import read_arrays

    return split_arrays(read_arrays(config, seed), config, seed, input_shape)
