"""What is asked, and what counts as right: one task a file; `task.py` is the contract."""
