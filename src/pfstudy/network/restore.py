"""The trained network of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from pfstudy import files, ledger, store
from pfstudy.errors import PfstudyError
from pfstudy.network.checkpoint import load_checkpoint
from pfstudy.network.surgery import build_network
from pfstudy.schema.closure import older_source_digest, source_digest
from pfstudy.schema.config import Config, parse_config
from pfstudy.schema.operations import find_operation
from pfstudy.variant import list_substitutions


def load_run(directory: str | Path) -> nn.Module:
    """Load the network of a finished run with its trained weights, in evaluation mode.

    Its last weights, or the best ones by validation where it has kept those alone. The dataset need
    not be there, nor the checkpoint that the run started from.

    Args:
        directory: The run directory, such as ``runs/SLUG-HASH/seed0``.

    Returns:
        A network ``(N, C, H, W) -> (N, num_classes)`` on the CPU.

    Raises:
        PfstudyError: The directory holds no finished run, the run has kept no weights, or a user's
            operation in it has been changed since.
    """
    directory = Path(directory)
    if ledger.state_of(directory) != "done":
        raise PfstudyError(
            f"{directory} holds no finished run; give a directory such as "
            "runs/SLUG-HASH/seed0, with a record.json in it."
        )
    network = build_network(read_network_config(directory))
    load_checkpoint(network, _find_weights(directory))
    return network.eval()


def read_network_config(directory: Path) -> Config:
    """Read the config of the network of a run, without the weights that the run started from.

    Raises:
        PfstudyError: It cannot be read, or a user's operation in it has been changed since.
    """
    written = files.read_json(directory / store.CONFIG)
    config = parse_config(written["config"])
    for substitution in list_substitutions(config):
        site = written["identity"]["canonical"]["sites"][substitution.layer]
        operation = find_operation(substitution.operation)
        if site.get("source") not in (source_digest(operation), older_source_digest(operation)):
            raise PfstudyError(
                f"{directory} was trained with another source of the operation "
                f"{substitution.operation!r}; bring that back to load it."
            )
    return replace(config, init_from=None, pretrained=False)


def _find_weights(directory: Path) -> Path:
    name = store.find_weights(directory)
    if name is not None:
        return directory / name
    raise PfstudyError(
        f"{directory} has kept no weights; to load it, forget the run (pfstudy forget) and train "
        "it again with trainer.keep=[last]."
    )
