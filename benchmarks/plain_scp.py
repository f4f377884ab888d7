"""A storage SCP as in pynetdicom's documentation, to measure beside: ``python -m benchmarks.plain_scp``.

It writes each instance as it came, does not fsync and keeps no index. Answers until it is killed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain_scp", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)

    def store(event: evt.Event) -> int:
        uid = cast(C_STORE, event.request).AffectedSOPInstanceUID
        (given.folder / f"{uid}.dcm").write_bytes(event.encoded_dataset())
        return 0x0000

    ae = AE("BENCHMARK")
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    ae.start_server(("127.0.0.1", given.port), block=True, evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main()
