"""preflight=true: what a cell would learn, how long it would take and whether it fits, before anything is trained.

forecast     steps, memory, time and cost of a cell; what the cells of a sweep share
measurement  three real steps on the longest rows
inspection   what the training set consists of, and one Example with its mask
table        the forecasts of a sweep and their sum
"""
