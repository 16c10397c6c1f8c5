"""Serve bundles over HTTP and gRPC by the Open Inference Protocol, which KServe, Triton and others speak too.

https://github.com/kserve/open-inference-protocol
"""
