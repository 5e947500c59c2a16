"""Score one cell, or a grid of them: python evaluate.py dataset=squad sample=1000

python evaluate.py -m dataset=squad sample=100,1000,null lora.r=0,8,16,64    same words as training; rank 0 is untuned
python evaluate.py dataset=squad trained_on=guanaco lora.r=8                 transfer
python evaluate.py dataset=squad predictions=FILE.json                       score {id: text} without a model
"""

import hydra
from omegaconf import DictConfig

from llama_exp.cli.main import one_job, run_command
from llama_exp.config.compose import register, resolve
from llama_exp.evaluation.recipe import evaluate
from llama_exp.runs.run import Outcome

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
@one_job
def main(cfg: DictConfig) -> Outcome:
    return evaluate(resolve(cfg))


if __name__ == "__main__":
    run_command(main)
