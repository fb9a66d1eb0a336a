"""Rules with matrix functions: elementwise parts before and after them, each on another engine."""
