"""Find the fastest certified settings of a part on this machine, and recommend them in the manifest."""
