"""preflight=true: what a cell would learn, how long it would take and whether it fits, before anything is trained.

forecast    memory, time and cost of every cell
inspection  what the training set is made of, and one Example with its mask
measuring   three real steps on the longest rows
"""
