"""Talk to a finished run: in the terminal, line by line from a program, in the browser, or from Python.

command   llama-exp chat
partner   the model in the words it was trained with
terminal  a person types
lines     JSON lines in, JSON lines out
app       the page, the untuned model beside the tuned one; pages/ is what a browser gets
library   a transformers pipeline
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TextGenerationPipeline


def pipeline(folder: str | Path, **options: Any) -> "TextGenerationPipeline":
    """A transformers text-generation pipeline from a run's folder, in the words of training, greedy unless told otherwise.

        pipe = llama_exp.chat.pipeline("outputs/guanaco/llama2_7b-all-r8-seed0")
        pipe("Why is the sky blue?")[0]["generated_text"]
        pipe([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
        pipe(["One?", "Two?"], batch_size=2, do_sample=True, temperature=0.7, max_new_tokens=50)

    `options` are the pipeline's own. Raises UserError for a folder that is no finished run.
    """
    from llama_exp.quiet import silence_libraries

    silence_libraries()  # before the libraries are imported
    from llama_exp.chat import transformers_pipeline

    return transformers_pipeline.pipeline(folder, **options)
