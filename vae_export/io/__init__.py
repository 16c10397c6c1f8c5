"""Write files atomically, stage large outputs, and read untrusted files strictly."""
