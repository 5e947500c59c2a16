"""Score one run on held-out data, or a sweep of them, with the keys that trained them:

    python evaluate.py dataset=squad sample=1000 lora.r=16
    python evaluate.py -m dataset=squad sample=100,1000,null lora.r=0,8,16,64    rank 0 is the untuned model
    python evaluate.py dataset=squad trained_on=guanaco lora.r=8                 transfer
    python evaluate.py dataset=squad predictions=FILE.json                       score {id: text} without a model

Training keys that are not typed come from the run. The recipe is llama_exp/evaluation/recipe.py.

The same from an installed package, in any folder: llama-exp evaluate …
"""

from llama_exp.cli.main import run_command

if __name__ == "__main__":
    run_command("evaluate")
