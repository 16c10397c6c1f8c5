"""A page that runs a bundle in the browser: its files, and the server that hands them out on this machine only."""
