"""The example commands of the seeds, one table per seed, and what stands in for docker and Kubernetes."""
