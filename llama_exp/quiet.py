"""Silences the libraries' advertisements and warnings about choices that are ours."""

import logging
import os
import warnings

# Remarks of libraries on choices that are ours. Named one by one: an unknown warning stays visible.
EXPECTED_WARNINGS = (
    "`?(is_)?gradient_checkpointing.*deprecated.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*does not have many workers.*",
    ".*Checkpoint directory.*exists.*",
    ".*The number of training batches.*",
    ".*module.* in eval mode.*",
    ".*Trying to infer the `batch_size`.*",
    ".*your dataloader is not resumable.*",  # the sampler goes on where it was (StepSampler.start)
    ".*AccumulateGrad node's stream.*",  # DistributedDataParallel's own streams
    ".*sync_dist=True.*",  # FineTuningModule sums over ranks itself
)


def silence_libraries() -> None:
    """Silence the libraries' advertisements and EXPECTED_WARNINGS."""
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in (
        "lightning.pytorch",
        "lightning.fabric",
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.distributed",
        "lightning.fabric.utilities.rank_zero",
        "bitsandbytes",
        "torch._subclasses.fake_tensor",
        "datasets",
        "matplotlib.font_manager",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # ten lines of retries; data/sources.py prints the outcome
