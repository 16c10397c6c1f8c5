"""An export on disk: the manifest, the folder with its files, the stored certificate, the golden vectors."""
