"""The forward pass of a Llama with LoRA over Examples laid end to end, and its gradients: no padding, nothing computed
twice that can be shared, nothing saved that is cheap to recompute.

    elementwise    norm, rotation, gate: Liger's kernels on a GPU, the same formulas elsewhere
    projection     linear layers of the base: W from its 4 bits (nf4_triton on a GPU), and x · W
    lora_linear    the same with LoRA, for the projections that share x, and the gradients
    fp8            the backward product in 8 bits (fp8_triton on a GPU)
    attention      each Example sees itself alone
    decoder_layer  one decoder layer, forward and backward
    forward        all layers; the loss of the labelled tokens
    warmup         first use of each kernel, beside reading data
    batch_decode   replies to many prompts, or to one, token by token: batches (prompts that begin alike), prefill
                   (prompts and responses in one pass), decode_step (one more token for each)
    next_token     the likeliest token, or one drawn at random
    transfers      copies between CPU and GPU that nobody waits for

What a step may keep in memory is chosen by llama_exp/model/memory.py.
"""
