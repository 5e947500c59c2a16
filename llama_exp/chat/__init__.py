"""Talk to a finished run: in the terminal, from a program, in the browser, or from Python.

command                llama-exp chat
session                a loaded run to talk to: prompt format, replies, history
terminal               a person types
json_lines             JSON lines in, JSON lines out
server                 the web page, the untuned model beside the tuned one; pages/ is sent to the browser
transformers_pipeline  the run as a transformers pipeline
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TextGenerationPipeline


def pipeline(folder: str | Path, **options: Any) -> "TextGenerationPipeline":
    """A transformers text-generation pipeline from a run's folder, prompted as in training, greedy by default.

        pipe = llama_exp.chat.pipeline("outputs/guanaco/llama2_7b_chat-all-r8-seed0")
        pipe("Why is the sky blue?")[0]["generated_text"]
        pipe([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
        pipe(["One?", "Two?"], batch_size=2, do_sample=True, temperature=0.7, max_new_tokens=50)

    `options` are the pipeline's own. Raises UserError for a folder that is not a finished run.
    """
    from llama_exp.quiet import silence_libraries

    silence_libraries()  # before the libraries are imported
    from llama_exp.chat.transformers_pipeline import load_pipeline

    return load_pipeline(folder, **options)
