"""A client and an agent hold conversations.

command        llama-exp simulate
cast           who speaks for whom: a run, the untuned model, a script
voices         one base in memory, several adapters on it
talking        many conversations in step, each side from its own side
conversations  how they end, what they score, their file
page           a page to read them on
"""
