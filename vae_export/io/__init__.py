"""Files: atomic writes, staging, and strict reading of what others wrote."""
