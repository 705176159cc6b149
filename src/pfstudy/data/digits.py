"""The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), test part.
"""

from __future__ import annotations

import gzip
import hashlib
from importlib.util import find_spec
from pathlib import Path

from pfstudy.data import Arrays
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data


def fingerprint(data: Data) -> str:
    """Digest of the file's text, found without importing scikit-learn."""
    del data
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise PfstudyError("data=digits needs scikit-learn: pip install scikit-learn.")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        content = gzip.decompress(path.read_bytes())
    except OSError as error:
        raise PfstudyError(f"{path} cannot be read: {error}; install scikit-learn anew.") from None
    return hashlib.sha256(content).hexdigest()


def load(data: Data) -> Arrays:
    """Read the digits: ``(1797, 1, 8, 8)``, grey values from 0 to 16."""
    del data
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Arrays(digits.images[:, None], digits.target)
