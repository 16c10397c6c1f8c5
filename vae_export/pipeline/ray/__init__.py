"""An engine that computes on a Ray cluster, the driver process that it starts, and the actors of the cluster."""
