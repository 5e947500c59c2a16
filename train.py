"""Fine-tune one run, or a sweep of them:

    python train.py dataset=squad sample=1000 lora.r=16                      QLoRA: Llama 2 in 4 bits, and an adapter
    python train.py -m dataset=squad sample=100,1000,null lora.r=8,16,64     a sweep; repeated, it runs what is missing
    python train.py model=tiny dataset=squad dataset.source=synthetic        any machine, offline
    python train.py experiment=quickstart                                    a small sweep, evaluated and reported

Every key is in conf/: --help lists the choices, --cfg job prints the config that a command would use, and
preflight=true shows what would be learnt, how long it takes and whether it fits. The recipe is
llama_exp/training/recipe.py; this file stays light, so that --help and tab completion
(`eval "$(python train.py -sc install=bash)"`) are fast.

The same from an installed package, in any folder: llama-exp train …
"""

from llama_exp.cli.main import run_command

if __name__ == "__main__":
    run_command("train")
