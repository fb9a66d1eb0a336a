"""nanoGPT's and the MADA authors' configurations, translated into our keys."""
