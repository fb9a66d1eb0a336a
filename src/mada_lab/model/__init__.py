"""The networks that the application trains."""
