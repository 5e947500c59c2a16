"""llama_exp: how much data and how much rank does a task need, and how sure may one be?

Importing this package imports nothing heavy; every module below it is imported by its own name.
"""

__version__ = "0.1.0"
