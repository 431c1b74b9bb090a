"""`make parity`: feature values served by the real view recomputed from the archived raw log, bit for bit."""
