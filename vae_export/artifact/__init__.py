"""Read an export on disk: the manifest, the folder with its files, the certificate and the golden vectors."""
