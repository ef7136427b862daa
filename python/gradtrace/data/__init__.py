"""Data of the user's and data that come with the package."""
