"""The data sets of the paper's experiments: what they are, where they lie, whether they are whole, how to get them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atslib.data import colon_cancer, mnist, speed_limits
from atslib.data.files import DataError, data_root


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        title: its name.
        used_for: which experiment.
        folder: below the data root.
        size: to download, and on disk.
        terms: under which it may be used.
        citation: what to cite.
        home: where it comes from.
        get: the command that gets it.
        problems: reads all of the folder and lists what is missing or wrong.
        look: as ``problems``, but without reading images: takes a second.
    """

    title: str
    used_for: str
    folder: str
    size: str
    terms: str
    citation: str
    home: str
    get: str
    problems: Callable[[Path], list[str]]
    look: Callable[[Path], list[str]]

    def path(self, root: str | os.PathLike | None = None) -> Path:
        return data_root(root) / self.folder

    def state(self, root: str | os.PathLike | None = None, *, thorough: bool = False) -> str:
        """``"complete"``, ``"absent"``, or what is wrong, in one line."""
        path = self.path(root)
        if not path.is_dir():
            return "absent"
        found = (self.problems if thorough else self.look)(path)
        if not found:
            return "complete"
        return f"incomplete: {found[0]}" + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")

    def describe(self) -> str:
        """Size, terms and citation, for ``--help``."""
        return (
            f"{self.title}\n\n  size      {self.size}\n  terms     {self.terms}\n  cite      {self.citation}\n"
            f"  home      {self.home}\n  goes to   ATSLIB_DATA/{self.folder}"
        )


def _lines(*checks: Callable[[], object]) -> list[str]:
    found = []
    for check in checks:
        try:
            check()
        except DataError as error:
            found.append(str(error))
    return found


SETS = {
    "mnist": Source(
        title="MNIST, handwritten digits",
        used_for="Megapixel MNIST (§4.2), with all digits; a part of them ships with atslib",
        folder=mnist.FOLDER,
        size="11 MB",
        terms="CC BY-SA 3.0, Y. LeCun and C. Cortes",
        citation="LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, Proc. IEEE, 1998",
        home="https://ossci-datasets.s3.amazonaws.com/mnist/",
        get=mnist.GET,
        problems=mnist.problems,
        look=mnist.problems,
    ),
    "colon_cancer": Source(
        title="CRCHistoPhenotypes, colon cancer histology with marked nuclei",
        used_for="colon cancer (§4.3)",
        folder=colon_cancer.FOLDER,
        size="about 150 MB to download, 75 MB on disk",
        terms="for research purposes only; do not redistribute; its home asks you to fill in a form",
        citation="Sirinukunwattana, Raza, Tsang, Snead, Cree, Rajpoot: Locality sensitive deep learning for detection and "
        "classification of nuclei in routine colon cancer histology images, IEEE Trans. Medical Imaging 35(5), 2016",
        home="https://warwick.ac.uk/fac/cross_fac/tia/data/crchistolabelednucleihe",
        get=colon_cancer.GET,
        problems=colon_cancer.problems,
        look=lambda folder: _lines(lambda: colon_cancer.check_complete(folder)),
    ),
    "swedish_traffic_signs": Source(
        title="Swedish Traffic Signs, Set1 and Set2, annotated part",
        used_for="speed limits (§4.4), the paper's set",
        folder=speed_limits.SWEDISH_FOLDER,
        size="several GB",
        terms="none stated by its authors; cite the paper",
        citation="Larsson, Felsberg: Using Fourier descriptors and spatial models for traffic sign recognition, SCIA, 2011",
        home="https://www.cvl.isy.liu.se/research/datasets/traffic-signs-dataset/",
        get=speed_limits.SWEDISH_GET,
        problems=speed_limits.swedish_problems,
        look=speed_limits.swedish_look,
    ),
    "gtsdb": Source(
        title="German Traffic Sign Detection Benchmark",
        used_for="speed limits (§4.4), a set that can be had without waiting; results on it are not the paper's",
        folder=speed_limits.GTSDB_FOLDER,
        size="1.7 GB to download, 3 GB on disk",
        terms="free to use for any purpose, its authors ask to be cited",
        citation="Houben, Stallkamp, Salmen, Schlipsing, Igel: Detection of traffic signs in real-world images: the German "
        "Traffic Sign Detection Benchmark, IJCNN, 2013",
        home="https://sid.erda.dk/public/archives/ff17dc924eba88d5d01a807357d6614c/",
        get=speed_limits.GTSDB_GET,
        problems=speed_limits.gtsdb_problems,
        look=speed_limits.gtsdb_look,
    ),
}
