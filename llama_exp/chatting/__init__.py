"""Talk to a finished run: in the terminal, line by line from a program, in the browser, or from Python.

partner   the model in the words it was trained with
terminal  a person types
lines     JSON lines in, JSON lines out
app       the page, the untuned model beside the tuned one; pages/ is what a browser gets
library   a transformers pipeline
"""
