"""The answer from the runs on disk, in four steps. Nothing here imports torch.

load      load.py        runs, evaluations and training curves, read from disk; items.py: scores item by item
compare   compare.py     which scores may be compared; cells.py: Cell, Panel, Comparison
analyse   analyse.py     intervals over seeds, ranking, learning curves; costs.py: time, memory, energy, money
write     write.py       all four steps: write_report(folder)
          findings.py    the sentences of the answer; captions.py: those under figures and tables
          labels.py      short names of cells, panels and comparisons; next_command.py: commands to type
          headline.py    the large numbers at the head of an answer
          tables.py      tables as strings; terminal.py prints them, page.py puts them into HTML
          figures/       the figures; runs_csv.py: runs.csv
          templates/     every sentence and page (Jinja); templating.py loads them

schemas.py               the JSON schemas of answer.json, results.json, summary.json
loss_page.py             one run's own curves; loss_note.py: what they show; drawing.py: the process that draws them
breakdown.py             scores by kind of question; command.py: its command, and the options of the report
"""
