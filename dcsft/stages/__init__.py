"""What happens, and when: each stage reads its parents' folders and fills one of its own."""
