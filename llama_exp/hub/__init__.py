"""Publish a finished run on the Hugging Face hub.

command     llama-exp publish
merging     base and adapter in one model, and whether the two answer alike
model_card  the page of a published model, made from what its run recorded
uploading   a repository that we may write to, written to patiently
"""
