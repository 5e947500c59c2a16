"""People judge replies, blind: a study over finished evaluations, the page that raters see, and what came of it.

llama-exp study create study=FOLDER tuned=EVALUATION untuned=EVALUATION items=50 raters=2
llama-exp study serve study=FOLDER    the page; a link per rater
llama-exp study report study=FOLDER    win rates, agreement, consistency

study.json       what is judged, and in which order each rater sees it; conditions are named here
ratings.sqlite   who may rate, and every rating, written the moment it is given
report/          index.html, results.json, ratings.csv
"""
