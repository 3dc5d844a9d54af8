"""A host in a Ray actor that counts the objects of Ray that its process knows."""

import os
import tempfile
from pathlib import Path

from covey.runtime.cluster.member import Member

COUNTS = Path(tempfile.gettempdir()) / "covey-tests-objects"
"""The folder of the counts, a file for each process."""


def objects() -> int:
    """The number of Ray's objects that this process knows."""
    import ray

    return len(ray._private.worker.global_worker.core_worker.get_all_reference_counts())


class Counted(Member):
    """A host that counts at the end of its run."""

    def serve(self, *arguments) -> None:
        super().serve(*arguments)
        COUNTS.mkdir(exist_ok=True)
        (COUNTS / str(os.getpid())).write_text(str(objects()))
