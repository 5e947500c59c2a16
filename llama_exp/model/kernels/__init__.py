"""The forward pass of a Llama with LoRA over Examples laid end to end, and its gradients: no padding, nothing computed
twice that can be shared, nothing kept that is cheap to compute again.

    elementwise  norm, rotation, gate: Liger's kernels on a GPU, the same formulas elsewhere
    products     x · W and its LoRA, for the projections that share x
    attention    each Example sees itself alone
    layer        one decoder layer, forward and backward
    forward      all layers; the loss of the labelled tokens
    warmup       first use of each kernel, beside reading data
    answering    greedy replies to many prompts, what they share computed once

What a step may keep in memory is chosen by llama_exp/model/memory.py.
"""
