"""How requests become steps: the scheduler, its blocks, and the engine that drives them."""
