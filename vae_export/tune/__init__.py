"""Which settings are the quickest on this machine, of those that a certificate says are good enough.

`tuning.py` has `tune()`; it is not imported here, so that the command line reads its options without torch.
"""
