"""Files, processes, downloads, hashes, start-up: nothing in here knows a model or decides a number."""
