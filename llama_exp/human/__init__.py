"""Human evaluation: raters judge replies blind, in the browser.

llama-exp study create study=FOLDER tuned=EVALUATION untuned=EVALUATION items=50 raters=2
llama-exp study serve study=FOLDER     the rating page; prints a link for each rater
llama-exp study report study=FOLDER    win rates, agreement, consistency

study.json       the items, and the order in which each rater sees them; conditions are named here
ratings.sqlite   the raters, their links and every rating
report/          index.html, results.json, ratings.csv
"""
