"""Sizes of batches that a model is compiled for: any number of requests is run in these."""

SIZES = (1, 4, 16, 64, 256)
FULL = 0.75  # of a batch that is asked for before it is filled up: what fills it costs as much as what is asked for
LARGEST = SIZES[-1]


def batches(count: int) -> list[int]:
    """Sizes of the batches that so many are run in: the largest that they fill, or fill but for a quarter.

    Examples:
      >>> batches(1), batches(13), batches(30)
      ([1], [16], [16, 16])
    """
    found = list[int]()
    while count > 0 or not found:
        found.append(up_to(max(count, 1))[-1])
        count -= found[-1]
    return found


def up_to(most: int) -> list[int]:
    """All sizes that up to so many may be run in.

    Examples:
      >>> up_to(64)
      [1, 4, 16, 64]
    """
    return [size for size in SIZES if FULL * size <= most]
