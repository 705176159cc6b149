"""One run, from its directory: trained by one process or several, gone on with, recorded."""
