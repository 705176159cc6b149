"""pfstudy: what happens to accuracy and speed when the spatial operation here becomes that?"""

__version__ = "0.1.0"
