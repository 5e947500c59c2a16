"""Fine-tune one cell, or a grid of them: python train.py dataset=squad sample=1000

    python train.py -m dataset=squad sample=100,1000,null lora.r=8,16,64     a sweep; again, and only what is missing runs
    python train.py experiment=quickstart                                    small, on any machine, evaluated and reported

Every key stands in conf/; --help lists the choices, --cfg job prints what a command would do.
"""

import hydra
from omegaconf import DictConfig

from llama_exp.cli.main import one_job, run_command
from llama_exp.config.compose import register, resolve
from llama_exp.runs.run import Outcome
from llama_exp.training.train import train

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
@one_job
def main(cfg: DictConfig) -> Outcome:
    config = resolve(cfg)
    if config.preflight:
        from llama_exp.preflight.forecast import preflight

        return preflight(config)
    return train(config)


if __name__ == "__main__":
    run_command(main)
