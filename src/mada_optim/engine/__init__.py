"""How a step is computed: the reference loop, and later the engines that are held equal to it."""
