"""The seam to the operating system: files, locks, signals, packages."""
