"""`dataset.metrics=[auto]` made into names of metrics, once for a dataset, so that all cells of a sweep agree."""

import dataclasses

from llama_exp import metrics
from llama_exp.config.schema import Config
from llama_exp.data import DATASETS, sources
from llama_exp.errors import UserError
from llama_exp.sanitize import clean
from llama_exp.session import Session


def with_metrics(config: Config, session: Session) -> Config:
    """The config with its metrics named: by the responses of the whole training split, whatever is sampled of it."""
    if metrics.AUTO not in config.dataset.metrics:
        return config
    sources.check(config.dataset)
    data = DATASETS.of(config, cache=session.data)
    data.setup()
    names, why = metrics.default_metrics([example.response for example in data.available], _has_encoder(config))
    print(f"  metrics: {', '.join(names)} ({why}). Others: dataset.metrics=[…]", flush=True)
    return _replaced(config, names)


def with_metrics_of(config: Config, trained: Config) -> Config:
    """The config with the metrics that were chosen when its run was trained."""
    if metrics.AUTO not in config.dataset.metrics or metrics.AUTO in trained.dataset.metrics:
        return config
    if (config.dataset.name, config.dataset.path) != (trained.dataset.name, trained.dataset.path):
        return config
    names = trained.dataset.metrics
    if foreign := [name for name in names if name not in metrics.METRICS]:  # a stored name is never imported
        raise UserError(
            f"The run was scored by {clean(', '.join(foreign))}, which is not of this package. To score it so again, "
            f"type dataset.metrics=[{clean(','.join(names))}]"
        )
    return _replaced(config, names)


def _replaced(config: Config, names: list[str]) -> Config:
    return dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, metrics=list(names)))


def _has_encoder(config: Config) -> bool:
    settings = metrics.settings_in(config, ["bertscore"])
    try:
        metrics.check(["bertscore"], settings)
    except UserError:
        return False
    return True
