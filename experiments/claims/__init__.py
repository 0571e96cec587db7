"""One claim a file: its question, what is varied, what is measured, what is drawn, and whether the claim was seen."""
