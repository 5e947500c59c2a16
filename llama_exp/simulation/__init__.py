"""A client and an agent hold simulated conversations.

command        llama-exp simulate
simulate       the whole simulation: openings, conversations (resumed), results, pages, comparison
speakers       who plays the client and who the agent: a run, the untuned model, a script
openings       the first messages
simulator      generates many conversations turn by turn, in batches
conversations  a conversation: its turns, why it ended, its file
scores         what is measured of a conversation
results        simulation.json and comparison.json
page           the pages to read conversations on; page.html is their template
"""
