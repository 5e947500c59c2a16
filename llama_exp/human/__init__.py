"""People judge replies, blind: a study over finished evaluations, the page that raters see, and what came of it.

python -m llama_exp.human.study study=FOLDER tuned=EVALUATION untuned=EVALUATION items=50 raters=2
python -m llama_exp.human.app study=FOLDER       the page; a link per rater
python -m llama_exp.human.report study=FOLDER    win rates, agreement, consistency

study.json       what is judged, and in which order each rater sees it; conditions are named here
ratings.sqlite   who may rate, and every rating, written the moment it is given
report/          index.html, results.json, ratings.csv
"""
