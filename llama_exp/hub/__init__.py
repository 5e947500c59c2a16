"""Publish a finished run on the Hugging Face hub.

command     llama-exp publish
publish     prepares the folder, checks it, uploads it
merge       base and adapter in one model, and whether it answers like the adapter
model_card  README.md of the repository, from the run's records; model_card.md is its template
upload      a repository on the hub, with retries
"""
