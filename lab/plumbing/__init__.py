"""Start-up, files, processes, downloads, photographs, digests: nothing in here knows a model."""
