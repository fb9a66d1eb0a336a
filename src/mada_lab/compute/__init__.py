"""Where arithmetic happens: device, processes, random numbers."""
