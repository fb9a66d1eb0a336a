"""The one-dimensional online problems of Reddi et al."""
