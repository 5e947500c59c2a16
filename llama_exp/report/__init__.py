"""What the runs on disk say: llama-exp report writes a table, a page and pictures. Nothing here imports torch.

command         the command, from a folder of runs to files
results         runs, evaluations and curves, read back from disk
cells        what is compared (a size at a rank, over its seeds); grouping: which scores may stand on one line
items, worth    scores item by item; intervals over all seeds, ties, learning curves
exact           best against the runner-up, by right or wrong alone
costs           seconds, tokens, memory, energy, money
families        runs that belong in one picture of how training went
words           numbers and names in words; captions, findings: sentences made of them
score_tables    tables as strings; spreadsheet: runs.csv
drawing         how a figure looks; plots, training_plots: the figures
page            the report's HTML; loss_page: one run's own curves, written when it ends
"""
