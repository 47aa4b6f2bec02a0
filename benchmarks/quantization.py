"""What weights of 8 bits cost: classes, embeddings and memory beside full weights.

    python benchmarks/quantization.py RUN ... --root DATA --json FILE

Each RUN is a fine-tuned classifier; the labelled data that it was fine-tuned on is read
again, from --root, and its test images are classified twice.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from spectralgpt.benchmarks.measurement import describe_machine, git_commit
from spectralgpt.building import quantize_encoder, weight_bytes
from spectralgpt.checkpoints import LoadedModel, load_model
from spectralgpt.config import build_config
from spectralgpt.data.datasets import LabelledDataset
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.tasks import read_batches


def test_images(loaded: LoadedModel, root: Path | None) -> LabelledDataset:
    """Read the test split that a classifier was scored on."""
    values = dict(loaded.extra["config"]["data"])
    values["root"] = str(root or values["root"])
    names, _ = loaded.classes("run")
    config: Any = build_config(values, LabelledDataConfig, "data")
    contract = loaded.preprocessing
    assert contract is not None
    test = read_labelled(config, names, contract.sensor).select("test")
    return LabelledDataset(test, contract)


@torch.inference_mode()
def run_model(model: ClassificationModel, data: LabelledDataset) -> dict[str, Any]:
    """Classify and embed all images; time the model alone."""
    logits, embeddings, seconds = [], [], 0.0
    for batch in read_batches(data, 32):
        images = batch["image"]
        start = time.process_time()
        logits.append(model(images))
        seconds += time.process_time() - start
        embeddings.append(model.encoder.pooled(images))
    return {
        "logits": torch.cat(logits),
        "embeddings": torch.cat(embeddings),
        "processor_seconds": seconds,
        "weight_bytes": weight_bytes(model),
    }


def compare(run: Path, root: Path | None) -> dict[str, Any]:
    """Score one classifier with full and with 8-bit weights."""
    loaded = load_model(run)
    assert isinstance(loaded.model, ClassificationModel)
    data = test_images(loaded, root)
    targets = torch.stack([torch.as_tensor(item["target"]) for item in data])
    full = run_model(loaded.model, data)
    quantize_encoder(loaded.model)
    int8 = run_model(loaded.model, data)
    classes = [each["logits"].argmax(dim=1) for each in (full, int8)]
    cosines = F.cosine_similarity(full["embeddings"], int8["embeddings"])
    return {
        "run": "/".join(run.parts[-4:]),
        "images": len(targets),
        "accuracy": [float((found == targets).float().mean()) for found in classes],
        "changed_classes": int((classes[0] != classes[1]).sum()),
        "cosine_median": float(cosines.median()),
        "cosine_least": float(cosines.min()),
        "weight_bytes": [each["weight_bytes"] for each in (full, int8)],
        "processor_seconds": [each["processor_seconds"] for each in (full, int8)],
    }


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--root", type=Path, help="where the data lies now")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = [compare(run, args.root) for run in args.runs]
    pairs = zip(*(each["accuracy"] for each in found), strict=True)
    result = {
        "machine": describe_machine(torch.device("cpu")),
        "load_average": os.getloadavg()[0],
        "torch_version": torch.__version__,
        "git_commit": git_commit(),
        "mean_accuracy": [statistics.mean(values) for values in pairs],
        "runs": found,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
