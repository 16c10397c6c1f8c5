"""A page that runs a bundle in the browser, with its files and a server for this machine only."""
