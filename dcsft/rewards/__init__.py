"""The judges: text in, Score out. Pure, on the CPU, one rule a file."""
