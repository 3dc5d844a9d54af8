"""The handwritten digits that are part of the package, for demonstrations and tests."""

import gzip
from pathlib import Path

import numpy as np
import torch

from covey.learning.dataset import Data, Dataset, Split
from covey.parts.errors import DataError

_FILE = Path(__file__).with_name("digits.csv.gz")
_COLUMNS = 65


class Digits(Dataset):
    """1,797 handwritten digits of 8 x 8 pixels, inside the package; 1,437 to train on and 360 to test on."""

    kind = "digits"

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        """Read the digits from the package. `folder` is not used."""
        try:
            text = gzip.decompress(_FILE.read_bytes()).decode("ascii")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise DataError(
                f"The file {_FILE} of the installation cannot be read ({error}): install covey again."
            ) from error
        table = np.fromstring(text.replace("\n", ","), dtype=np.uint8, sep=",").reshape(-1, _COLUMNS)
        pixels, labels = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
        # Every fifth digit in order of labels: a split with every class in proportion, whatever the seed.
        in_test = np.zeros(len(table), dtype=bool)
        in_test[np.argsort(labels, kind="stable")[::5]] = True

        def split(chosen: np.ndarray) -> Split:
            return Split(torch.from_numpy(pixels[chosen]), torch.from_numpy(labels[chosen]))

        names = [str(digit) for digit in range(10)]
        return Data(split(~in_test), split(in_test), "classes", 10, label_names=names, scale=1 / 16)
