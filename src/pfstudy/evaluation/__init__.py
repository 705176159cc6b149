"""How networks do on test images: as they are, corrupted, attacked, occluded.

`cases` and `results` say what can be asked for and what is kept of it, and need no torch.
"""
