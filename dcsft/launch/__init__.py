"""Where, and beside what else: the cells of a sweep as jobs."""
