"""Hidden weight matrices: which they are, their polar factor, and the learning rate that their shapes suggest."""
