"""One claim per file: its question, what is varied and measured, the figures, and the conclusion."""
