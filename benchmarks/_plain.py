"""The plain way: a Hydra application that trains a network with Lightning, with default settings.

What it trains is read from a file, so that it is the network, the data and the recipe of pfstudy.

python benchmarks/_plain.py -m config=A.json,B.json seed=0,1,2
python benchmarks/_plain.py -m hydra/launcher=joblib hydra.launcher.n_jobs=2 config=A.json seed=0,1
python benchmarks/_plain.py -m isolate=true config=A.json seed=0,1     each run a process of its own
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

ConfigStore.instance().store("plain", {"config": "???", "seed": 0, "isolate": False})


@hydra.main(version_base="1.3", config_path=None, config_name="plain")
def main(wanted: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    if wanted.isolate:
        command = [sys.executable, __file__, wanted.config, str(wanted.seed), str(folder)]
        subprocess.run(command, check=True)
    else:
        train(Path(wanted.config), wanted.seed, folder)


def train(config_file: Path, seed: int, folder: Path) -> None:
    import lightning as L  # noqa: N812  (not in the parent of isolated runs)
    from torch.utils.data import DataLoader, TensorDataset

    from pfstudy.data.tensors import load_splits
    from pfstudy.module import Classifier
    from pfstudy.network.surgery import build_network
    from pfstudy.schema.config import parse_config

    config = parse_config(json.loads(config_file.read_text()))
    recipe = config.recipe
    L.seed_everything(seed, verbose=False)
    data = {
        name: TensorDataset(split.images_NCHW, split.labels_N)
        for name, split in load_splits(config.data).items()
    }
    train_batches = DataLoader(data["train"], recipe.batch_size, shuffle=True, drop_last=True)
    network = build_network(config, seed)
    module = Classifier(network, recipe, config.data.num_classes, len(train_batches))
    trainer = L.Trainer(max_epochs=recipe.epochs, default_root_dir=folder)
    trainer.fit(module, train_batches, DataLoader(data["validation"], 256))
    trainer.test(module, DataLoader(data["test"], 256))
    result = {"config": config_file.name, "seed": seed, **module.evaluated}
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1].endswith(".json"):
        train(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
